package supervisor

import "time"

// maxPending bounds the changes that wait for a journal that refuses them.
const maxPending = 256

// journalRetry is how long a refused change waits for its next try.
const journalRetry = time.Second

// record stores a change that has happened, whatever the journal says: if it is
// refused it is kept and tried again, since a full disk must not stop the
// supervision. The error is for who waits for the record.
func (u *Unit) record(c Change) error {
	c.At = time.Now().UTC()
	if len(u.pending) == maxPending {
		u.sup.cfg.Warn("a change of a service is lost: the log has refused too many", "kind", string(u.pending[0].Kind))
		u.pending = u.pending[1:]
	}
	u.pending = append(u.pending, c)
	return u.flush()
}

// recordNow stores a change that is to happen; if it is refused, it does not.
func (u *Unit) recordNow(c Change) error {
	c.At = time.Now().UTC()
	if err := u.flush(); err != nil {
		return err
	}
	return u.sup.cfg.Journal.Record(u.plan.Key, c)
}

func (u *Unit) flush() error {
	for len(u.pending) > 0 {
		if err := u.sup.cfg.Journal.Record(u.plan.Key, u.pending[0]); err != nil {
			if !u.retrying {
				u.retrying = true
				u.sup.cfg.Warn("cannot record a change of a service; it is tried again", "kind", string(u.pending[0].Kind), "error", err)
				u.after(journalRetry, timerJournal)
			}
			return err
		}
		u.pending = u.pending[1:]
	}
	return nil
}
