package engine

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/solo-run/solo/pkg/failpoint"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
)

// The buckets of answers that are given again: by tenant and the digest of the
// caller's key; and by time, so that the old ones are found.
var (
	bucketAnswers     = []byte("answers")
	bucketAnswersByAt = []byte("answers.at")
	bucketAnswersKey  = []byte("answers.key")
	keySecret         = []byte("secret")
)

// answerTime is how long an answer is kept (contract 4b). A tenant keeps no more
// than maxAnswers.
const (
	answerTime = 24 * time.Hour
	maxAnswers = 10_000
	// sweepAnswers is how many old ones each new one takes away.
	sweepAnswers = 8
)

// storedAnswer is the first answer to a request with a key. Print is a keyed hash
// of what was asked: bodies hold secrets.
type storedAnswer struct {
	Print  []byte    `json:"print"`
	Status int       `json:"status"`
	Body   []byte    `json:"body"`
	At     time.Time `json:"at"`
}

// answerKey names a caller's key in memory.
type answerKey struct{ tenant, key string }

// Begin looks whether a request of that key was answered before. It returns the
// first answer, or what stores the one to come: finish has to be called, with nil
// where the answer is not to be kept. The error is conflict where the key was used
// for something else, or is being used. secret tells that the request holds one, and
// that its fingerprint must not be one that who has the disk could try values on.
func (e *Engine) Begin(p solo.Principal, key string, request []byte, secret bool) (first *solo.Answer, finish func(*solo.Answer) error, err error) {
	if secret {
		mac, err := e.cfg.Vault.Derive("idempotency", p.Tenant)
		if err != nil {
			return nil, nil, err
		}
		h := hmac.New(sha256.New, mac)
		h.Write(request)
		request = h.Sum(nil)
	}
	id := answerKey{p.Tenant, key}
	e.mu.Lock()
	if e.answering[id] {
		e.mu.Unlock()
		return nil, nil, solo.Errorf(solo.CodeConflict, "a request with this Idempotency-Key is under way").Retry(time.Second)
	}
	e.answering[id] = true
	e.mu.Unlock()
	leave := func() {
		e.mu.Lock()
		delete(e.answering, id)
		e.mu.Unlock()
	}
	name := sha256.Sum256([]byte(key))
	var print []byte
	err = e.cfg.DB.View(func(tx *store.Tx) error {
		print = fingerprint(tx, request)
		tenant := tx.Bucket(bucketAnswers).Bucket([]byte(p.Tenant))
		if tenant == nil {
			return nil
		}
		var a storedAnswer
		switch err := store.Get(tenant, name[:], &a); {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case err != nil:
			return err
		case tx.Now.Sub(a.At) >= answerTime:
			return nil
		case !hmac.Equal(a.Print, print):
			return solo.Errorf(solo.CodeConflict, "this Idempotency-Key was used for another request")
		}
		first = &solo.Answer{Status: a.Status, Body: a.Body}
		return nil
	})
	if err != nil || first != nil {
		leave()
		return first, nil, err
	}
	return nil, func(a *solo.Answer) error {
		defer leave()
		if a == nil {
			return nil
		}
		failpoint.Hit("answer.unkept")
		return e.cfg.DB.Update(func(tx *store.Tx) error {
			return keepAnswer(tx, p.Tenant, name[:], storedAnswer{Print: print, Status: a.Status, Body: a.Body, At: tx.Now})
		})
	}, nil
}

// fingerprint is what tells two requests apart without keeping what they say.
func fingerprint(tx *store.Tx, request []byte) []byte {
	mac := hmac.New(sha256.New, tx.Bucket(bucketAnswersKey).Get(keySecret))
	mac.Write(request)
	return mac.Sum(nil)
}

// prepareAnswers makes the buckets and the secret of the fingerprints.
func prepareAnswers(tx *store.Tx) error {
	for _, name := range [][]byte{bucketAnswers, bucketAnswersByAt, bucketAnswersKey} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	b := tx.Bucket(bucketAnswersKey)
	if b.Get(keySecret) != nil {
		return nil
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	return b.Put(keySecret, secret)
}

// keepAnswer stores an answer and takes some old ones away.
func keepAnswer(tx *store.Tx, tenant string, name []byte, a storedAnswer) error {
	root, byAt := tx.Bucket(bucketAnswers), tx.Bucket(bucketAnswersByAt)
	if err := sweep(root, byAt, tx.Now); err != nil {
		return err
	}
	b, err := root.CreateBucketIfNotExists([]byte(tenant))
	if err != nil {
		return err
	}
	if countKeys(b, maxAnswers) >= maxAnswers {
		// The request is done all the same: only its answer is not given again.
		return nil
	}
	at := binary.BigEndian.AppendUint64(nil, uint64(a.At.UnixNano()))
	if err := byAt.Put(append(append(at, name...), tenant...), nil); err != nil {
		return err
	}
	return store.Put(b, name, a)
}

func sweep(root, byAt *bbolt.Bucket, now time.Time) error {
	c := byAt.Cursor()
	for n := 0; n < sweepAnswers; n++ {
		k, _ := c.First()
		if len(k) < 8+sha256.Size || now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(k)))) < answerTime {
			return nil
		}
		name, tenant := k[8:8+sha256.Size], k[8+sha256.Size:]
		if b := root.Bucket(tenant); b != nil {
			var a storedAnswer
			// One that was stored anew under the same name is younger.
			if store.Get(b, name, &a) == nil && now.Sub(a.At) >= answerTime {
				if err := b.Delete(name); err != nil {
					return err
				}
			}
		}
		if err := byAt.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
