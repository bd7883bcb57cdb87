package replication

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// InitialPolicy says what to send where the receiver has no version yet.
type InitialPolicy string

// The initial policies.
const (
	InitialMostRecent InitialPolicy = "most_recent" // the newest snapshot, in full; the default
	InitialAll        InitialPolicy = "all"         // the oldest in full, the others incrementally
	InitialFail       InitialPolicy = "fail"        // nothing: it is an error
)

// Backoff is the pause before another attempt: it starts at First, doubles with each
// failure up to Max, and is shortened at random by up to half, so that many
// filesystems do not come back at once.
type Backoff struct {
	First time.Duration // 0: DefaultBackoff.First
	Max   time.Duration // 0: DefaultBackoff.Max
}

// DefaultBackoff lets a peer restart within the first three attempts.
var DefaultBackoff = Backoff{First: time.Second, Max: 30 * time.Second}

// DefaultAttempts is how often in a row one filesystem may fail without progress.
const DefaultAttempts = 5

// planConcurrency is how many filesystems are planned at once: each needs two small calls.
const planConcurrency = 8

// DefaultEstimates is low since some senders compute a whole difference for one.
const DefaultEstimates = 2

// progressInterval is how often moving bytes alone are reported.
const progressInterval = 100 * time.Millisecond

// Options say how Run replicates. The zero value: all filesystems, one step at a time.
type Options struct {
	// Filter picks among the sender's filesystems by path. nil: all.
	Filter func(filesystem string) bool
	// InitialPolicy: "" is InitialMostRecent.
	InitialPolicy InitialPolicy
	// Concurrency is how many steps run at once. 0: 1.
	Concurrency int
	// Estimates is how many sizes of steps are asked for at once. 0: DefaultEstimates.
	Estimates int
	// Tokens reads the receiver's resume tokens; the local endpoint, if it can.
	// nil: a token goes unread to the first step of its filesystem's plan.
	Tokens endpoint.TokenReader
	// Protection is what the sender guarantees for each step while it runs. nil:
	// resumability, of initial and incremental steps.
	Protection *pdu.ReplicationConfig
	// Attempts is how often in a row one filesystem (or the listing of all) may
	// fail for transient reasons; a completed step, and a broken one of which the
	// receiver kept more than before, start the count anew. 0: DefaultAttempts.
	Attempts int
	// Backoff is the pause between attempts.
	Backoff Backoff
	// DryRun plans and estimates only. Nothing is sent or changed.
	DryRun bool
	// Progress is called from one goroutine: whenever a filesystem or step starts or
	// ends, at most every 100 ms while only bytes move, and once before Run returns.
	// It must not block for long: reports are skipped meanwhile. nil: none.
	Progress func(Progress)
	// Logger gets steps (Info), retries and dropped tokens (Warn). nil: discard.
	Logger *slog.Logger
}

func (o Options) withDefaults() (Options, error) {
	switch o.InitialPolicy {
	case "":
		o.InitialPolicy = InitialMostRecent
	case InitialMostRecent, InitialAll, InitialFail:
	default:
		return o, fmt.Errorf("unknown initial policy %q", o.InitialPolicy)
	}
	if o.Filter == nil {
		o.Filter = func(string) bool { return true }
	}
	if o.Protection == nil {
		o.Protection = defaultProtection()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Concurrency = positive(o.Concurrency, 1)
	o.Estimates = positive(o.Estimates, DefaultEstimates)
	o.Attempts = positive(o.Attempts, DefaultAttempts)
	o.Backoff.First = positive(o.Backoff.First, DefaultBackoff.First)
	o.Backoff.Max = positive(o.Backoff.Max, DefaultBackoff.Max)
	return o, nil
}

func positive[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

func defaultProtection() *pdu.ReplicationConfig {
	return &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     pdu.ReplicationGuaranteeKind_GuaranteeResumability,
		Incremental: pdu.ReplicationGuaranteeKind_GuaranteeResumability,
	}}
}
