package logs

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/solo-run/solo/pkg/solo"
)

// stored is a line as it stands in a file.
type stored struct {
	ID        uint64 `json:"id"`
	Instance  int    `json:"instance"`
	Version   int    `json:"version"`
	Stream    string `json:"stream"`
	Level     string `json:"level"`
	Line      string `json:"line"`
	Truncated bool   `json:"truncated,omitempty"`
}

// maxRecord bounds a record in a file: a line of 64 KiB, each byte escaped.
const maxRecord = 512 << 10

func encode(l *stored) []byte {
	raw, err := json.Marshal(l)
	if err != nil {
		// Strings, numbers and a bool always encode.
		panic(err)
	}
	return append(raw, '\n')
}

// maxID is far in the future, and leaves room to count on.
const maxID = 1 << 62

// decode reads one record; false for what is not one.
func decode(raw []byte) (*stored, bool) {
	var l stored
	if json.Unmarshal(raw, &l) != nil || l.ID == 0 || l.ID > maxID {
		return nil, false
	}
	return &l, true
}

// scan calls f for each whole record of a file from an offset on, with the
// offset behind it, until f says no. A file that is gone has none.
func scan(path string, from int64, f func(l *stored, end int64) bool) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read a log: %w", err)
	}
	defer file.Close()
	if _, err := file.Seek(from, io.SeekStart); err != nil {
		return fmt.Errorf("cannot read a log: %w", err)
	}
	r := bufio.NewReaderSize(file, 64<<10)
	end := from
	for {
		raw, err := readRecord(r, &end)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read a log: %w", err)
		}
		if l, ok := decode(raw); ok && !f(l, end) {
			return nil
		}
	}
}

// near is how close find comes to a record before it leaves the rest to a scan.
const near = 64 << 10

// find returns an offset at which a record begins, at or before the first one
// whose id is from or higher: ids grow within a file.
func find(path string, from uint64) (int64, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("cannot read a log: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, fmt.Errorf("cannot read a log: %w", err)
	}
	r := bufio.NewReaderSize(file, 4<<10)
	low, high := int64(0), info.Size()
	for high-low > near {
		middle := low + (high-low)/2
		if _, err := file.Seek(middle, io.SeekStart); err != nil {
			return 0, fmt.Errorf("cannot read a log: %w", err)
		}
		r.Reset(file)
		begin := middle
		id := uint64(0)
		// The first line is the rest of one; damaged ones after it are passed over.
		if _, err := readRecord(r, &begin); err == nil {
			for next := begin; id == 0; {
				raw, err := readRecord(r, &next)
				if err != nil {
					break
				}
				if l, ok := decode(raw); ok {
					id = l.ID
				} else {
					begin = next
				}
			}
		}
		if id == 0 || id >= from || begin >= high {
			high = middle
		} else {
			low = begin
		}
	}
	return low, nil
}

// readRecord returns the next line without its newline; one that is longer than
// any record is passed over. A last line without a newline is torn: io.EOF.
func readRecord(r *bufio.Reader, end *int64) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		*end += int64(len(part))
		switch {
		case err == nil && long == nil:
			return part[:len(part)-1], nil
		case err == nil:
			if len(long) > maxRecord {
				return nil, nil
			}
			return append(long, part[:len(part)-1]...), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
		if long == nil {
			long = make([]byte, 0, 2*len(part))
		}
		if len(long) <= maxRecord {
			long = append(long, part...)
		}
	}
}

var severity = map[string]int{"debug": 0, "info": 1, "warn": 2, "error": 3}

func (l *stored) matches(q *solo.LogQuery) bool {
	return (q.Instance == 0 || l.Instance == q.Instance) &&
		(q.Level == "" || severity[l.Level] >= severity[q.Level]) &&
		(q.Text == "" || strings.Contains(l.Line, q.Text))
}

func (l *stored) line(key solo.Key) solo.LogLine {
	return solo.LogLine{
		ID: l.ID, Timestamp: time.UnixMicro(int64(l.ID)).UTC(), ServiceID: key.Service, Instance: l.Instance,
		Version: l.Version, Stream: l.Stream, Level: l.Level, Line: l.Line, Truncated: l.Truncated,
	}
}

// maxScan bounds how many records of one service a page looks at.
const maxScan = 200_000

// view is what a page reads of one service: its segments at one instant.
type view struct {
	key   solo.Key
	paths []string
	first []uint64
}

// Page returns the lines after a cursor that the query selects, in the order of
// their ids. NextSinceID goes on from there, also where nothing was found. With
// Tail it is the last lines that match.
func (s *Store) Page(q solo.LogQuery) (solo.LogPage, error) {
	limit := q.Limit
	if limit <= 0 {
		limit = solo.DefaultLimit
	}
	limit = min(limit, solo.MaxLimit)
	s.mu.Lock()
	newest := s.last
	var views []view
	for key, v := range s.services {
		if q.Tenant != "" && key.Tenant != q.Tenant || q.ServiceID != "" && key.Service != q.ServiceID {
			continue
		}
		w := view{key: key}
		for _, seg := range v.segments {
			w.paths, w.first = append(w.paths, v.path(seg.first)), append(w.first, seg.first)
		}
		views = append(views, w)
	}
	s.mu.Unlock()

	from, to := q.SinceID+1, newest
	if !q.Since.IsZero() {
		from = max(from, uint64(max(q.Since.UnixMicro(), 0)))
	}
	if !q.Until.IsZero() {
		to = min(to, uint64(max(q.Until.UnixMicro(), 0)))
	}
	page := solo.LogPage{Logs: []solo.LogLine{}}
	// reached is up to where every service was looked at.
	reached := newest
	for _, v := range views {
		lines, last, err := v.read(&q, from, to, limit)
		if err != nil {
			return solo.LogPage{}, solo.Errorf(solo.CodeStorageUnavailable, "the log cannot be read").Because(err)
		}
		page.Logs = append(page.Logs, lines...)
		if last > 0 {
			reached = min(reached, last)
		}
	}
	sort.Slice(page.Logs, func(i, j int) bool { return page.Logs[i].ID < page.Logs[j].ID })
	if q.Tail {
		page.Logs = page.Logs[max(0, len(page.Logs)-limit):]
		page.NextSinceID = newest
		return page, nil
	}
	n := sort.Search(len(page.Logs), func(i int) bool { return page.Logs[i].ID > reached })
	page.Logs = page.Logs[:min(n, limit)]
	page.NextSinceID = max(reached, q.SinceID)
	if len(page.Logs) == limit {
		page.NextSinceID = page.Logs[limit-1].ID
	}
	return page, nil
}

// read returns up to limit lines of the service with ids from..to; last is the id
// up to which it looked, 0 where it came to the end. With Tail it keeps the last.
func (v *view) read(q *solo.LogQuery, from, to uint64, limit int) (lines []solo.LogLine, last uint64, err error) {
	// The segment that may hold the first id wanted is the last one that begins
	// at or before it.
	i := max(0, sort.Search(len(v.first), func(i int) bool { return v.first[i] > from })-1)
	scanned := 0
	for ; i < len(v.paths); i++ {
		done := false
		start, err := find(v.paths[i], from)
		if err != nil {
			return nil, 0, err
		}
		err = scan(v.paths[i], start, func(l *stored, _ int64) bool {
			switch {
			case l.ID > to:
				done = true
				return false
			case l.ID < from:
				return true
			}
			if scanned++; scanned > maxScan && !q.Tail {
				done, last = true, l.ID-1
				return false
			}
			if !l.matches(q) {
				return true
			}
			lines = append(lines, l.line(v.key))
			if q.Tail && len(lines) >= 2*limit {
				lines = append(lines[:0], lines[len(lines)-limit:]...)
			}
			if !q.Tail && len(lines) == limit {
				done, last = true, l.ID
				return false
			}
			return true
		})
		if err != nil {
			return nil, 0, err
		}
		if done {
			break
		}
	}
	return lines, last, nil
}

// Tail returns the last n lines of an instance, oldest first; fewer where they
// are gone.
func (s *Store) Tail(key solo.Key, instance, n int) []string {
	page, err := s.Page(solo.LogQuery{Tenant: key.Tenant, ServiceID: key.Service, Instance: instance, Tail: true, Limit: n})
	out := make([]string, 0, n)
	if err != nil {
		return out
	}
	for _, l := range page.Logs {
		out = append(out, l.Line)
	}
	return out
}

// LastID is the id of the newest line of the whole store.
func (s *Store) LastID() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
