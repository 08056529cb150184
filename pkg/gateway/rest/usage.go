package rest

import (
	"bytes"
	"encoding/csv"
	"net/http"
	"strconv"

	"github.com/solo-run/solo/pkg/solo"
)

// usage answers with CSV only to who asks for it by name.
func (s *Server) usage(c *call) error {
	q := c.query()
	query := solo.UsageQuery{
		From: q.time("from"), To: q.time("to"), ByService: q.word("by", "tenant", "service") == "service",
		Limit: q.number("limit", solo.DefaultLimit, 1, solo.MaxLimit), Offset: q.number("offset", 0, 0, 1<<31-1),
	}
	if err := q.err(); err != nil {
		return err
	}
	report, err := s.cfg.Engine.Usage(c.Request().Context(), c.principal, query)
	if err != nil {
		return err
	}
	if c.accepts("application/json") {
		return c.answer(http.StatusOK, report)
	}
	text, err := usageCSV(report)
	if err != nil {
		return err
	}
	return c.Blob(http.StatusOK, c.op.Media+"; charset=utf-8", text)
}

func usageCSV(report *solo.UsageReport) ([]byte, error) {
	var buf bytes.Buffer
	w := csv.NewWriter(&buf)
	w.Write([]string{"tenant_id", "service_id", "cpu_seconds", "memory_mb_seconds", "calls", "bytes_in", "bytes_out", "builds", "build_seconds"})
	for _, r := range report.Usage {
		service := ""
		if r.ServiceID != nil {
			service = *r.ServiceID
		}
		decimal := func(v float64) string { return strconv.FormatFloat(v, 'f', 3, 64) }
		whole := func(v uint64) string { return strconv.FormatUint(v, 10) }
		w.Write([]string{
			r.TenantID, service, decimal(r.CPUSeconds), decimal(r.MemoryMBSeconds), whole(r.Calls), whole(r.BytesIn), whole(r.BytesOut), whole(r.Builds), decimal(r.BuildSeconds),
		})
	}
	w.Flush()
	return buf.Bytes(), w.Error()
}
