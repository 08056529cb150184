package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

const timeFormat = "2006-01-02T15:04:05.000Z"

// clean makes text of a tenant's harmless to a terminal: what could move the
// cursor or change the screen is shown as its escape.
func clean(s string) string {
	bad := func(r rune) bool {
		return r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r))
	}
	s = strings.ToValidUTF8(s, "\uFFFD")
	if !strings.ContainsFunc(s, bad) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if !bad(r) {
			b.WriteRune(r)
			continue
		}
		q := strconv.QuoteRuneToASCII(r)
		b.WriteString(q[1 : len(q)-1])
	}
	return b.String()
}

func formatTime(t *timestamppb.Timestamp) string {
	if t == nil {
		return "-"
	}
	return t.AsTime().Format(timeFormat)
}

// orDash shows a number that may be absent.
func orDash(n *int32) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(int(*n))
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// table writes rows in columns.
func table(w io.Writer, rows ...[]string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, strings.ReplaceAll(clean(cell), "\t", " "))
		}
		fmt.Fprintln(tw)
	}
	_ = tw.Flush() // into a buffer: cannot fail
}

func serviceTable(w io.Writer, s *solov1.Service) {
	state := s.GetState()
	if state == "running" && !s.GetReady() {
		state += " (not ready)"
	}
	rows := [][]string{
		{"service", s.GetServiceId()},
		{"tenant", s.GetTenantId()},
		{"state", state},
		{"version", strconv.Itoa(int(s.GetVersion()))},
		{"pid", orDash(s.Pid)},
		{"instance", orDash(s.Instance)},
		{"restarts", strconv.Itoa(int(s.GetRestarts()))},
		{"restart", s.GetRestart()},
	}
	if u := s.GetUsage(); u != nil {
		rows = append(rows, []string{"memory", fmt.Sprintf("%.1f MiB of %d (peak %.1f)",
			mib(u.GetMemoryBytes()), s.GetLimits().GetMemoryMb(), mib(u.GetMemoryPeakBytes()))})
		rows = append(rows, []string{"cpu", (time.Duration(u.GetCpuUsec()) * time.Microsecond).Round(time.Millisecond).String()})
		rows = append(rows, []string{"processes", strconv.FormatUint(u.GetPids(), 10)})
	}
	if b := s.GetBuild(); b != nil {
		how := "built in " + (time.Duration(b.GetDurationMs()) * time.Millisecond).String()
		if b.GetCached() {
			how += ", from the cache"
		}
		rows = append(rows, []string{"build", how})
	}
	if off := layersOff(s.GetIsolation()); off != "" {
		rows = append(rows, []string{"not isolated", off})
	}
	rows = append(rows, []string{"deployed", formatTime(s.DeployedAt)}, []string{"started", formatTime(s.StartedAt)})
	if e := s.GetLastExit(); e != nil {
		rows = append(rows, []string{"last exit", formatTime(e.GetAt()) + " " + exitWords(e)})
	}
	table(w, rows...)
	for _, line := range s.GetLastExit().GetLogTail() {
		fmt.Fprintf(w, "  | %s\n", clean(line))
	}
}

func mib(n uint64) float64 { return float64(n) / (1 << 20) }

func layersOff(isolation map[string]string) string {
	var off []string
	for layer, state := range isolation {
		if state != "on" {
			off = append(off, layer)
		}
	}
	slices.Sort(off)
	return strings.Join(off, ", ")
}

// exitWords says how a process ended, in one line.
func exitWords(e *solov1.Exit) string {
	s := e.GetReason()
	switch {
	case e.Code != nil:
		s += fmt.Sprintf(", status %d", e.GetCode())
	case e.Signal != nil:
		s += ", " + e.GetSignal()
	}
	return clean(s) + " after " + (time.Duration(e.GetRanMs()) * time.Millisecond).String()
}

func listTable(w io.Writer, l *solov1.ServiceList) {
	rows := [][]string{{"TENANT", "SERVICE", "STATE", "READY", "VERSION", "RESTARTS", "PID", "STARTED"}}
	for _, s := range l.GetServices() {
		rows = append(rows, []string{orMinus(s.GetTenantId()), s.GetServiceId(), s.GetState(), yesNo(s.GetReady()), strconv.Itoa(int(s.GetVersion())),
			strconv.Itoa(int(s.GetRestarts())), orDash(s.Pid), formatTime(s.StartedAt)})
	}
	table(w, rows...)
}

func changeTable(w io.Writer, changes []*solov1.Change) {
	if len(changes) == 0 {
		fmt.Fprintln(w, "no changes")
		return
	}
	rows := [][]string{{"CHANGE", "FROM", "TO"}}
	for _, c := range changes {
		rows = append(rows, []string{c.GetField(), compact(c.GetFrom()), compact(c.GetTo())})
	}
	table(w, rows...)
}

func eventLine(w io.Writer, e *solov1.Event) {
	fmt.Fprintf(w, "%d %s %s %s %s %s\n", e.GetId(), formatTime(e.GetTimestamp()), orMinus(e.GetTenantId()),
		clean(e.GetEventType()), orMinus(e.GetSubject()), compact(e.GetPayload()))
}

func orMinus(s string) string {
	if s == "" {
		return "-"
	}
	return clean(s)
}

func logLine(w io.Writer, l *solov1.LogLine) {
	cut := ""
	if l.GetTruncated() {
		cut = " [cut]"
	}
	fmt.Fprintf(w, "%s %s#%d %s %s%s\n", formatTime(l.GetTimestamp()), clean(l.GetServiceId()), l.GetInstance(),
		clean(l.GetLevel()), clean(strings.TrimSuffix(l.GetLine(), "\n")), cut)
}

// compact is a value as JSON in one line. protojson varies its spaces, so that
// nobody relies on them; a table must not.
func compact(m proto.Message) string {
	if m == nil || !m.ProtoReflect().IsValid() {
		return "-"
	}
	data, err := protojson.Marshal(m)
	if err != nil {
		return "-"
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return "-"
	}
	return clean(b.String())
}

func healthTable(w io.Writer, h *solov1.Health) {
	rows := [][]string{{"status", h.GetStatus()}}
	if h.GetVersion() != "" {
		rows = append(rows,
			[]string{"version", h.GetVersion()},
			[]string{"up", (time.Duration(h.GetUptimeS()) * time.Second).String()},
			[]string{"warm-up", strings.TrimSpace(fmt.Sprintf("%s %d/%d %s", h.GetWarmUp().GetState(), h.GetWarmUp().GetDone(), h.GetWarmUp().GetTotal(), h.GetWarmUp().GetDetail()))},
			[]string{"events", strconv.FormatUint(h.GetEvents().GetTotal(), 10)})
	}
	for _, name := range slices.Sorted(maps.Keys(h.GetServices())) {
		rows = append(rows, []string{"services " + name, strconv.Itoa(int(h.GetServices()[name]))})
	}
	for _, name := range slices.Sorted(maps.Keys(h.GetComponents())) {
		c := h.GetComponents()[name]
		rows = append(rows, []string{"component " + name, strings.TrimSpace(c.GetStatus() + " " + c.GetDetail())})
	}
	for _, name := range slices.Sorted(maps.Keys(h.GetIsolation())) {
		l, state := h.GetIsolation()[name], "on"
		if !l.GetOn() {
			state = "off: " + l.GetWhy()
		}
		rows = append(rows, []string{"isolation " + name, state})
	}
	table(w, rows...)
}
