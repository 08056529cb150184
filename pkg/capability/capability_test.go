package capability_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/solo-run/solo/pkg/capability"
	"github.com/solo-run/solo/pkg/solo"
	"github.com/solo-run/solo/pkg/store"
	"github.com/solo-run/solo/sdk/token"
)

// keys stand for the vault; a locked one gives none.
type keys struct{ locked atomic.Bool }

func (k *keys) Derive(purpose, tenant string) ([]byte, error) {
	if k.locked.Load() {
		return nil, solo.Errorf(solo.CodeUnavailable, "the vault is locked")
	}
	out := make([]byte, 32)
	copy(out, purpose+"/"+tenant)
	return out, nil
}

type fixture struct {
	db    *store.DB
	store *capability.Store
	keys  *keys
}

func open(t testing.TB, path string, rate int) *fixture {
	t.Helper()
	db, err := store.Open(path, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	k := &keys{}
	s, err := capability.Open(capability.Config{DB: db, Keys: k, Rate: rate})
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{db, s, k}
}

func fresh(t testing.TB) *fixture { return open(t, filepath.Join(t.TempDir(), "db"), 0) }

func (f *fixture) update(t testing.TB, fn func(tx *store.Tx) error) {
	t.Helper()
	if err := f.db.Update(fn); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) grant(t testing.TB, tenant string, a capability.Asked) (c solo.Capability, text string) {
	t.Helper()
	f.update(t, func(tx *store.Tx) (err error) { c, text, err = f.store.Grant(tx, tenant, a); return err })
	return c, text
}

func (f *fixture) derive(t testing.TB, text string, a capability.Asked) (c solo.Capability, out string) {
	t.Helper()
	h, err := f.store.Verify(text)
	if err != nil {
		t.Fatal(err)
	}
	f.update(t, func(tx *store.Tx) (err error) { c, out, err = f.store.Derive(tx, h, a); return err })
	return c, out
}

func (f *fixture) revoke(t testing.TB, tenant, id string) (revoked []string) {
	t.Helper()
	raw, err := capability.ReadID(id)
	if err != nil {
		t.Fatal(err)
	}
	f.update(t, func(tx *store.Tx) (err error) { revoked, err = f.store.Revoke(tx, tenant, raw); return err })
	return revoked
}

func refused(t testing.TB, f *fixture, what, text string) {
	t.Helper()
	_, err := f.store.Verify(text)
	if solo.CodeOf(err) != solo.CodeUnauthenticated {
		t.Errorf("%s: %v", what, err)
		return
	}
	if _, first := f.store.Verify("solo_"); first.Error() != err.Error() {
		t.Errorf("%s is told as %q, and what is no token as %q", what, err, first)
	}
	if len(text) > 20 && strings.Contains(err.Error(), text) {
		t.Errorf("the error holds the token")
	}
}

var reader = capability.Asked{Resource: "services/*", Permissions: []solo.Permission{solo.PermissionRead}, TTL: time.Hour}

func TestATokenOutlivesARestartAndIsNotStored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path, 0)
	c, text := f.grant(t, "t", reader)
	if c.TenantID != "t" || c.Resource != "services/*" || c.Methods != nil || c.RateLimit != nil || c.Parent != nil || c.Revoked {
		t.Errorf("the capability is %+v", c)
	}
	if err := f.db.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, 0)
	h, err := f.store.Verify(text)
	if err != nil || h.Tenant != "t" || h.ID != c.ID {
		t.Fatalf("after a restart it is %+v, %v", h, err)
	}
	if !h.Allows(solo.PermissionRead, "services/a", "") || h.Allows(solo.PermissionKill, "services/a", "") || h.Allows(solo.PermissionRead, "secrets/a", "") {
		t.Error("it allows something else than was granted")
	}
	if err := f.db.View(func(tx *store.Tx) error { return noToken(tx, text) }); err != nil {
		t.Error(err)
	}
}

// noToken looks for the token's tag, and for its text, in everything that is stored.
func noToken(tx *store.Tx, text string) error {
	return tx.ForEach(func(name []byte, _ *bucket) error {
		return walk(tx.Bucket(name), func(k, v []byte) error {
			if strings.Contains(string(v), text) || strings.Contains(string(k), text) || strings.Contains(string(v), text[len(text)-40:]) {
				return fmt.Errorf("the bucket %s holds the token", name)
			}
			return nil
		})
	})
}

func TestEveryFaultIsTheSameAnswer(t *testing.T) {
	f := fresh(t)
	_, text := f.grant(t, "t", reader)
	for i := range len(text) {
		c := byte('A')
		if text[i] == c {
			c = 'B'
		}
		refused(t, f, fmt.Sprintf("a change at %d", i), text[:i]+string(c)+text[i+1:])
		refused(t, f, fmt.Sprintf("cut off at %d", i), text[:i])
	}
	refused(t, f, "nothing", "")
	_, other := fresh(t).grant(t, "t", reader)
	refused(t, f, "another daemon's", other)
	if _, err := f.store.Verify(text); err != nil {
		t.Error(err)
	}
}

func TestALockedVaultSaysSo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	f := open(t, path, 0)
	_, text := f.grant(t, "t", reader)
	f.db.Close()
	f = open(t, path, 0)
	f.keys.locked.Store(true)
	if _, err := f.store.Verify(text); solo.CodeOf(err) != solo.CodeUnavailable {
		t.Errorf("with a locked vault: %v", err)
	}
}

func TestItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fresh(t)
		c, text := f.grant(t, "t", capability.Asked{Resource: "services/*", Permissions: reader.Permissions, TTL: 2 * time.Second})
		if _, err := f.store.Verify(text); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Until(c.ExpiresAt))
		refused(t, f, "one that was seen before and has expired", text)
		var swept []solo.Capability
		f.update(t, func(tx *store.Tx) (err error) { swept, err = f.store.Sweep(tx, 10); return err })
		if len(swept) != 1 || swept[0].ID != c.ID {
			t.Errorf("swept away are %+v", swept)
		}
		refused(t, f, "one that was swept away", text)
	})
}

func TestRevokingReachesEveryChildAtOnce(t *testing.T) {
	f := fresh(t)
	root, text := f.grant(t, "t", capability.Asked{Resource: "services/**", Permissions: []solo.Permission{solo.PermissionAdmin}, TTL: time.Hour})
	child, childText := f.derive(t, text, capability.Asked{Resource: "services/a", Permissions: reader.Permissions, TTL: 2 * time.Hour})
	grand, grandText := f.derive(t, childText, capability.Asked{Rate: 5})
	sibling, siblingText := f.derive(t, text, capability.Asked{})
	if *child.Parent != root.ID || *grand.Parent != child.ID || *sibling.Parent != root.ID {
		t.Error("the parents are not told")
	}
	if child.ExpiresAt.After(root.ExpiresAt) || *grand.RateLimit != 5 || grand.Resource != "services/a" || fmt.Sprint(grand.Permissions) != "[read]" {
		t.Errorf("the grandchild is %+v", grand)
	}
	for _, text := range []string{text, childText, grandText, siblingText} {
		if _, err := f.store.Verify(text); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.revoke(t, "t", child.ID); !slices.Equal(got, []string{child.ID, grand.ID}) {
		t.Errorf("revoked are %v", got)
	}
	refused(t, f, "the revoked one", childText)
	refused(t, f, "its child", grandText)
	for _, text := range []string{text, siblingText} {
		if _, err := f.store.Verify(text); err != nil {
			t.Errorf("one beside it: %v", err)
		}
	}
	if got := f.revoke(t, "t", root.ID); !slices.Equal(got, []string{root.ID, sibling.ID}) {
		t.Errorf("revoked are %v", got)
	}
	refused(t, f, "the root", text)
	refused(t, f, "a child of the root", siblingText)
	raw, _ := capability.ReadID(root.ID)
	if err := f.db.Update(func(tx *store.Tx) error { _, err := f.store.Revoke(tx, "u", raw); return err }); solo.CodeOf(err) != solo.CodeNotFound {
		t.Errorf("another tenant revokes it: %v", err)
	}
}

func TestWhatIsDerivedIsNeverWider(t *testing.T) {
	f := fresh(t)
	_, text := f.grant(t, "t", capability.Asked{Resource: "services/a", Permissions: reader.Permissions, Methods: []string{"m"}, TTL: time.Hour})
	h, err := f.store.Verify(text)
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]capability.Asked{
		"resource": {Resource: "services/*"}, "permission": {Permissions: []solo.Permission{solo.PermissionKill}}, "method": {Methods: []string{"n"}},
	} {
		err := f.db.Update(func(tx *store.Tx) error { _, _, err := f.store.Derive(tx, h, a); return err })
		if solo.CodeOf(err) != solo.CodePermissionDenied {
			t.Errorf("a wider %s: %v", name, err)
		}
	}
	if !h.Holds("services/a", reader.Permissions, []string{"m"}) || h.Holds("services/a", reader.Permissions, nil) ||
		h.Holds("services/b", reader.Permissions, []string{"m"}) || h.Holds("services/a", []solo.Permission{solo.PermissionAdmin}, []string{"m"}) {
		t.Error("what the holder holds is told wrongly")
	}
}

func TestATenantsEpoch(t *testing.T) {
	f := fresh(t)
	_, old := f.grant(t, "t", reader)
	_, others := f.grant(t, "u", reader)
	if _, err := f.store.Verify(old); err != nil {
		t.Fatal(err)
	}
	f.update(t, func(tx *store.Tx) error { return f.store.RevokeTenant(tx, "t") })
	refused(t, f, "one of before the epoch", old)
	if _, err := f.store.Verify(others); err != nil {
		t.Errorf("another tenant's: %v", err)
	}
	c, text := f.grant(t, "t", reader)
	if _, err := f.store.Verify(text); err != nil {
		t.Errorf("a new one: %v", err)
	}
	var list []solo.Capability
	if err := f.db.View(func(tx *store.Tx) (err error) { list, _, err = f.store.List(tx, "t", 10, 0); return err }); err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].ID != c.ID {
		t.Errorf("the list is %+v", list)
	}
}

func TestRevokeResource(t *testing.T) {
	f := fresh(t)
	_, all := f.grant(t, "t", reader)
	_, one := f.grant(t, "t", capability.Asked{Resource: "services/a", Permissions: reader.Permissions, TTL: time.Hour})
	f.update(t, func(tx *store.Tx) error { _, err := f.store.RevokeResource(tx, "t", "services/a"); return err })
	refused(t, f, "that of the service", one)
	if _, err := f.store.Verify(all); err != nil {
		t.Errorf("that of all services: %v", err)
	}
}

// Ten thousand short-lived ones leave no trace.
func TestTheSweepLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fresh(t)
		for range 20 {
			f.update(t, func(tx *store.Tx) error {
				for range 500 {
					if _, _, err := f.store.Grant(tx, "t", capability.Asked{Resource: "services/*", Permissions: reader.Permissions, TTL: time.Second}); err != nil {
						return err
					}
				}
				return nil
			})
		}
		time.Sleep(time.Second)
		n := 0
		for more := true; more; {
			f.update(t, func(tx *store.Tx) error {
				swept, err := f.store.Sweep(tx, 1000)
				n += len(swept)
				more = len(swept) == 1000
				return err
			})
		}
		var list []solo.Capability
		if err := f.db.View(func(tx *store.Tx) (err error) { list, _, err = f.store.List(tx, "t", 10, 0); return err }); err != nil {
			t.Fatal(err)
		}
		if n != 10_000 || len(list) != 0 {
			t.Errorf("%d were swept away, %d are left", n, len(list))
		}
	})
}

func TestTheRateIsShared(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"), 1000)
	_, text := f.grant(t, "t", capability.Asked{Resource: "services/*", Permissions: reader.Permissions, TTL: time.Hour, Rate: 3})
	_, childText := f.derive(t, text, capability.Asked{Rate: 2})
	holder := func(text string) *capability.Holder {
		h, err := f.store.Verify(text)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	now := time.Now()
	parent, child := holder(text), holder(childText)
	for i := range 2 {
		if err := child.Admit(now); err != nil {
			t.Fatalf("request %d of the child: %v", i, err)
		}
	}
	var limited *solo.Error
	if err := child.Admit(now); !errors.As(err, &limited) || limited.Code != solo.CodeRateLimited || limited.RetryAfter != 30*time.Second {
		t.Fatalf("its third: %v", err)
	}
	if err := parent.Admit(now); err != nil {
		t.Fatalf("what the child was refused is not the parent's: %v", err)
	}
	if err := parent.Admit(now); solo.CodeOf(err) != solo.CodeRateLimited {
		t.Fatalf("the fourth of both: %v", err)
	}
	if err := parent.Admit(now.Add(20 * time.Second)); err != nil {
		t.Fatalf("a third of a minute later: %v", err)
	}
}

// Who makes many tokens of one cannot make its bound be forgotten.
func TestManyLimitsForgetNone(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "db"), 0)
	_, text := f.grant(t, "t", capability.Asked{Resource: "services/*", Permissions: reader.Permissions, TTL: time.Hour, Rate: 100_000})
	now := time.Now()
	tok, err := token.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range 20_000 {
		narrow, err := tok.Attenuate(token.Narrowing{Rate: uint32(i + 1)})
		if err != nil {
			t.Fatal(err)
		}
		h, err := f.store.Verify(narrow.String())
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Admit(now); solo.CodeOf(err) == solo.CodeRateLimited {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("there is no end of limiters")
	}
	h, err := f.store.Verify(text)
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	for h.Admit(now) == nil {
		left++
	}
	if spent := 100_000 - left; spent != 20_000-refused {
		t.Errorf("of the parent's bound %d are spent, by %d requests", spent, 20_000-refused)
	}
}

func TestWatchEndsWithTheToken(t *testing.T) {
	f := fresh(t)
	c, text := f.grant(t, "t", reader)
	h, err := f.store.Verify(text)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := f.store.Watch(t.Context(), h)
	defer cancel()
	f.grant(t, "t", reader)
	f.revoke(t, "t", c.ID)
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Error("a stream goes on with a token that was revoked")
	}
}

func BenchmarkVerifySeen(b *testing.B) {
	f := fresh(b)
	_, text := f.grant(b, "t", reader)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := f.store.Verify(text); err != nil {
			b.Fatal(err)
		}
	}
}

// A token that was not seen before, with a hundred thousand others in the store.
func BenchmarkVerifyOf100000(b *testing.B) {
	f := fresh(b)
	texts := make([]string, 0, 100_000)
	for range 100 {
		f.update(b, func(tx *store.Tx) error {
			for range 1000 {
				_, text, err := f.store.Grant(tx, fmt.Sprintf("t%d", len(texts)%100), capability.Asked{Resource: "services/*", Permissions: reader.Permissions, TTL: time.Hour, Rate: 100})
				if err != nil {
					return err
				}
				texts = append(texts, text)
			}
			return nil
		})
	}
	i := 0
	took := make([]time.Duration, 0, 1<<20)
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		if _, err := f.store.Verify(texts[i%len(texts)]); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
		i += 7919
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
}
