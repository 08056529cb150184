package logs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/solo-run/solo/pkg/logs"
	"github.com/solo-run/solo/pkg/solo"
)

func open(t testing.TB, dir string) *logs.Store {
	t.Helper()
	s, err := logs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func writer(t testing.TB, s *logs.Store, tenant, service string, instance int) *logs.Writer {
	t.Helper()
	w, err := s.Writer(solo.Key{Tenant: tenant, Service: service}, instance, 1, 16<<20)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func page(t testing.TB, s *logs.Store, q solo.LogQuery) solo.LogPage {
	t.Helper()
	p, err := s.Page(q)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func texts(p solo.LogPage) string {
	var out []string
	for _, l := range p.Logs {
		out = append(out, l.Line)
	}
	return strings.Join(out, " ")
}

func TestLinesComeBackAsTheyWere(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w := writer(t, s, "t", "s", 3)
	before := time.Now()
	hostile := []string{"", "plain", `{"level":"error"}`, "a\nb\r\n", "\x00\x1b[31m", "ü\u2028<&>", strings.Repeat("x", 64<<10), strings.Repeat("\x01", 64<<10)}
	for _, line := range hostile {
		w.Line("stderr", "warn", []byte(line), len(line) > 1000)
	}
	check := func(s *logs.Store) {
		t.Helper()
		p := page(t, s, solo.LogQuery{Tenant: "t"})
		if len(p.Logs) != len(hostile) {
			t.Fatalf("%d lines, want %d", len(p.Logs), len(hostile))
		}
		last := uint64(0)
		for i, l := range p.Logs {
			if l.Line != hostile[i] || l.Stream != "stderr" || l.Level != "warn" || l.Instance != 3 || l.Version != 1 || l.ServiceID != "s" || l.Truncated != (len(hostile[i]) > 1000) {
				t.Errorf("line %d: %.100q %+v", i, l.Line, l.ID)
			}
			if l.ID <= last || l.Timestamp.Before(before.Truncate(time.Microsecond)) || l.Timestamp.After(time.Now()) {
				t.Errorf("line %d: id %d after %d, time %v", i, l.ID, last, l.Timestamp)
			}
			last = l.ID
		}
		if p.NextSinceID < last {
			t.Errorf("the cursor %d is before %d", p.NextSinceID, last)
		}
	}
	check(s)
	s.Close()
	check(open(t, dir))
}

func TestFilters(t *testing.T) {
	s := open(t, t.TempDir())
	a, b, other := writer(t, s, "t", "a", 1), writer(t, s, "t", "b", 2), writer(t, s, "u", "a", 1)
	a.Line("stdout", "info", []byte("a1"), false)
	b.Line("stdout", "debug", []byte("b1"), false)
	other.Line("stdout", "error", []byte("u1"), false)
	a.Line("stderr", "error", []byte("a2"), false)
	middle := page(t, s, solo.LogQuery{}).Logs[3]
	for time.Now().UnixMicro() <= int64(middle.ID) {
	}
	b.Line("log", "warn", []byte("b2"), false)
	for name, tc := range map[string]struct {
		q    solo.LogQuery
		want string
	}{
		"tenant":      {solo.LogQuery{Tenant: "t"}, "a1 b1 a2 b2"},
		"operator":    {solo.LogQuery{}, "a1 b1 u1 a2 b2"},
		"service":     {solo.LogQuery{Tenant: "t", ServiceID: "a"}, "a1 a2"},
		"instance":    {solo.LogQuery{Tenant: "t", Instance: 2}, "b1 b2"},
		"level":       {solo.LogQuery{Tenant: "t", Level: "warn"}, "a2 b2"},
		"text":        {solo.LogQuery{Tenant: "t", Text: "2"}, "a2 b2"},
		"limit":       {solo.LogQuery{Tenant: "t", Limit: 2}, "a1 b1"},
		"tail":        {solo.LogQuery{Tenant: "t", Limit: 2, Tail: true}, "a2 b2"},
		"cursor":      {solo.LogQuery{Tenant: "t", SinceID: middle.ID}, "b2"},
		"since":       {solo.LogQuery{Tenant: "t", Since: middle.Timestamp.Add(time.Microsecond)}, "b2"},
		"until":       {solo.LogQuery{Tenant: "t", Until: middle.Timestamp}, "a1 b1 a2"},
		"nobody":      {solo.LogQuery{Tenant: "none"}, ""},
		"joined name": {solo.LogQuery{Tenant: "t", ServiceID: "a/b"}, ""},
	} {
		if got := texts(page(t, s, tc.q)); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if got := s.Tail(solo.Key{Tenant: "t", Service: "a"}, 1, 1); len(got) != 1 || got[0] != "a2" {
		t.Errorf("Tail = %q", got)
	}
}

func TestBytesAreBoundedAndTheNewestStay(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w, err := s.Writer(solo.Key{Tenant: "t", Service: "s"}, 1, 1, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		w.Line("stdout", "info", []byte(fmt.Sprintf("%06d %s", i, strings.Repeat("x", 1000))), false)
	}
	total := int64(0)
	filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			total += info.Size()
		}
		return nil
	})
	if total > 1<<20+1024 || total < 1<<19 {
		t.Errorf("%d bytes are kept, want about 1 MiB", total)
	}
	tail := s.Tail(solo.Key{Tenant: "t", Service: "s"}, 1, 1)
	if len(tail) != 1 || !strings.HasPrefix(tail[0], "002999 ") {
		t.Errorf("the newest line is %.10q", tail)
	}
	// Reading on from a cursor that was cut away begins with what remains.
	p := page(t, s, solo.LogQuery{Tenant: "t", SinceID: 1, Limit: 1})
	if len(p.Logs) != 1 || p.Logs[0].Line < "001000" {
		t.Errorf("the oldest line is %.10q", texts(p))
	}
}

func TestFollowersMissAndDoubleNothing(t *testing.T) {
	s := open(t, t.TempDir())
	const writers, each = 4, 500
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var group sync.WaitGroup
	for f := range 3 {
		group.Go(func() {
			seen := map[string]int{}
			for q := (solo.LogQuery{Tenant: "t", Limit: 50 + f}); len(seen) < writers*each; {
				p, err := s.Page(q)
				if err != nil {
					t.Error(err)
					return
				}
				for _, l := range p.Logs {
					if l.ID <= q.SinceID {
						t.Errorf("line %d came after %d", l.ID, q.SinceID)
						return
					}
					if seen[l.Line]++; seen[l.Line] > 1 {
						t.Errorf("%s came twice", l.Line)
						return
					}
				}
				q.SinceID = p.NextSinceID
				if len(p.Logs) == 0 {
					if err := s.Wait(ctx, "t", q.SinceID); err != nil {
						t.Errorf("after %d lines: %v", len(seen), err)
						return
					}
				}
			}
		})
	}
	for i := range writers {
		w := writer(t, s, "t", fmt.Sprint("s", i), 1)
		group.Go(func() {
			for n := range each {
				w.Line("stdout", "info", []byte(fmt.Sprintf("%d-%d", i, n)), false)
			}
		})
	}
	group.Wait()
	stop, done := context.WithCancel(t.Context())
	done()
	if err := s.Wait(stop, "t", s.LastID()); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait at the end: %v", err)
	}
	if err := s.Wait(stop, "u", 0); !errors.Is(err, context.Canceled) {
		t.Errorf("another tenant's lines woke a waiter: %v", err)
	}
}

func TestATornRecordHurtsNoOther(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w := writer(t, s, "t", "s", 1)
	w.Line("stdout", "info", []byte("one"), false)
	w.Line("stdout", "info", []byte("two"), false)
	s.Close()
	files, err := filepath.Glob(filepath.Join(dir, "*", "*.log"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %v, %v", files, err)
	}
	f, err := os.OpenFile(files[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"id":99,"li`)
	f.Close()
	s = open(t, dir)
	if got := texts(page(t, s, solo.LogQuery{Tenant: "t"})); got != "one two" {
		t.Errorf("with a torn record: %q", got)
	}
	w = writer(t, s, "t", "s", 2)
	w.Line("stdout", "info", []byte("three"), false)
	if got := texts(page(t, s, solo.LogQuery{Tenant: "t"})); got != "one two three" {
		t.Errorf("after a torn record: %q", got)
	}
}

func TestPurge(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	w, other := writer(t, s, "t", "s", 1), writer(t, s, "t", "other", 1)
	w.Line("stdout", "info", []byte("gone"), false)
	other.Line("stdout", "info", []byte("stays"), false)
	if err := s.Purge(solo.Key{Tenant: "t", Service: "s"}); err != nil {
		t.Fatal(err)
	}
	w.Line("stdout", "info", []byte("late"), false)
	if got := texts(page(t, s, solo.LogQuery{Tenant: "t"})); got != "stays" {
		t.Errorf("after a purge: %q", got)
	}
	if s.Dropped() != 1 {
		t.Errorf("dropped = %d", s.Dropped())
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d directories are left, want 1", len(entries))
	}
}

func TestACursorIsFoundWithoutReadingAll(t *testing.T) {
	s := open(t, t.TempDir())
	w := writer(t, s, "t", "s", 1)
	var ids []uint64
	for i := range 20000 {
		w.Line("stdout", "info", []byte(fmt.Sprint(i)), false)
		ids = append(ids, s.LastID())
	}
	for i := 0; i < len(ids)-1; i += 997 {
		p := page(t, s, solo.LogQuery{Tenant: "t", SinceID: ids[i], Limit: 1})
		if texts(p) != fmt.Sprint(i+1) {
			t.Errorf("after line %d comes %q", i, texts(p))
		}
	}
}

func FuzzSegment(f *testing.F) {
	f.Add([]byte(`{"id":1,"instance":1,"version":1,"stream":"stdout","level":"info","line":"x"}` + "\n"))
	f.Add([]byte("{\"id\":18446744073709551615}\n{\"id\":1}\n"))
	f.Add([]byte("\n\n\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		s, err := logs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		w := writer(t, s, "t", "s", 1)
		w.Line("stdout", "info", []byte("x"), false)
		s.Close()
		files, _ := filepath.Glob(filepath.Join(dir, "*", "*.log"))
		if err := os.WriteFile(files[0], text, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err = logs.Open(dir); err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Page(solo.LogQuery{}); err != nil {
			t.Fatal(err)
		}
	})
}
