package capability_test

import "go.etcd.io/bbolt"

type bucket = bbolt.Bucket

// walk visits everything below a bucket.
func walk(b *bucket, visit func(k, v []byte) error) error {
	return b.ForEach(func(k, v []byte) error {
		if inner := b.Bucket(k); v == nil && inner != nil {
			return walk(inner, visit)
		}
		return visit(k, v)
	})
}
