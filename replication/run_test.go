package replication

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/synth"
	"github.com/dualrepl/dualrepl/pdu"
)

var (
	errLost   = status.Error(codes.Unavailable, "connection lost")
	errBroken = errors.New("broken for good")
)

// mustRun is a Run that succeeds.
func mustRun(t *testing.T, s endpoint.Sender, r endpoint.Receiver, opts Options) *Report {
	t.Helper()
	rep, err := Run(t.Context(), s, r, opts)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return rep
}

func TestRun(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	s.AddFilesystem("empty")
	s.Snapshot("data/docs", "one", 1000)
	s.Snapshot("data/docs", "two", 100)
	s.Snapshot("data/docs/old", "one", 0)
	s.Snapshot("left/out", "one", 1000)
	opts := Options{
		Concurrency: 2, InitialPolicy: InitialAll, Tokens: s,
		Filter: func(path string) bool { return !strings.HasPrefix(path, "left") },
	}
	rep := mustRun(t, s, r, opts)
	want := map[string]string{"data/docs": ">@one @one>@two", "data/docs/old": ">@one", "empty": ""}
	got := map[string]string{}
	for _, f := range rep.Filesystems {
		got[f.Filesystem] = steps(f)
		state := StateDone
		if f.Filesystem == "empty" {
			state = StateEmpty
		}
		if f.State != state || len(f.Pending) > 0 || f.Failures > 0 {
			t.Errorf("%+v", f)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("report is %v, want %v", got, want)
	}
	if got := names(t, r, "data/docs"); got != "one two" {
		t.Errorf("the receiver has %q", got)
	}
	if res, err := s.ReplicationCursor(t.Context(), &pdu.ReplicationCursorReq{Filesystem: "data/docs"}); err != nil || res.GetGuid() == 0 {
		t.Errorf("replication cursor: %v, %v", res, err)
	}

	s.Snapshot("data/docs", "three", 10)
	if rep := mustRun(t, s, r, opts); steps(rep.Filesystems[0]) != "@two>@three" {
		t.Errorf("the second run did %q", steps(rep.Filesystems[0]))
	}
	if rep := mustRun(t, s, r, opts); steps(rep.Filesystems[0]) != "" || rep.Filesystems[0].State != StateDone {
		t.Errorf("a run without news: %+v", rep.Filesystems[0])
	}
	for _, req := range r.received {
		if !req.ClearResumeToken || req.ReplicationConfig.GetProtection().GetInitial() != pdu.ReplicationGuaranteeKind_GuaranteeResumability {
			t.Errorf("request %v", req)
		}
	}
}

// transientFaults are all the places at which a replication can be interrupted. Each
// prepares the endpoints, whose one filesystem has three snapshots of 100,000 bytes.
var transientFaults = map[string]func(*fakeSender, *fakeReceiver){
	"list of the sender":     func(s *fakeSender, _ *fakeReceiver) { s.before["ListFilesystems"] = on(errLost, 1, 2) },
	"list of the receiver":   func(_ *fakeSender, r *fakeReceiver) { r.before["ListFilesystems"] = on(errLost, 1) },
	"versions of the sender": func(s *fakeSender, _ *fakeReceiver) { s.before["ListFilesystemVersions"] = on(errLost, 1, 2) },
	"send":                   func(s *fakeSender, _ *fakeReceiver) { s.before["Send"] = on(errLost, 2) },
	"stream":                 func(s *fakeSender, _ *fakeReceiver) { s.FailAt("docs", 50_000, errLost) },
	"stream, first byte":     func(s *fakeSender, _ *fakeReceiver) { s.FailAt("docs", 0, io.ErrUnexpectedEOF) },
	"stream, last byte":      func(s *fakeSender, _ *fakeReceiver) { s.FailAt("docs", 100_000, errLost) },
	"receiver":               func(_ *fakeSender, r *fakeReceiver) { r.FailAt("docs", 50_000, errLost) },
	"receiver is busy":       func(_ *fakeSender, r *fakeReceiver) { r.before["Receive"] = on(endpoint.ErrBusy, 1, 2, 4) },
	"receiver's answer":      func(_ *fakeSender, r *fakeReceiver) { r.after["Receive"] = on(errLost, 1, 2, 3) },
	"completion":             func(s *fakeSender, _ *fakeReceiver) { s.before["SendCompleted"] = on(errLost, 1, 3) },
	"completion's answer":    func(s *fakeSender, _ *fakeReceiver) { s.after["SendCompleted"] = on(errLost, 2) },
	"planning after a fault": func(s *fakeSender, r *fakeReceiver) {
		s.FailAt("docs", 50_000, errLost)
		r.before["ListFilesystems"] = on(errLost, 2, 3)
	},
}

// TestFailure07RetryDropsBrokenStep: wherever a step breaks, the retry takes it again or
// completes it, and reports each step once.
func TestFailure07RetryDropsBrokenStep(t *testing.T) {
	for name, inflict := range transientFaults {
		for _, readable := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { testTransientFault(t, inflict, readable) })
			})
		}
	}
}

func testTransientFault(t *testing.T, inflict func(*fakeSender, *fakeReceiver), readable bool) {
	s, r := newFakeSender(), newFakeReceiver()
	var last *pdu.FilesystemVersion
	for _, name := range []string{"one", "two", "three"} {
		last = s.Snapshot("docs", name, 100_000)
	}
	inflict(s, r)
	opts := Options{InitialPolicy: InitialAll}
	if readable {
		opts.Tokens = s
	}
	began := time.Now()
	rep := mustRun(t, s, r, opts)
	if time.Since(began) < DefaultBackoff.First/2 {
		t.Error("it was retried without a pause")
	}
	f := rep.Filesystems[0]
	if got := strings.ReplaceAll(steps(f), "+", ""); got != ">@one @one>@two @two>@three" {
		t.Errorf("steps are %q", got)
	}
	if got := names(t, r, "docs"); got != "one two three" {
		t.Errorf("the receiver has %q", got)
	}
	if f.Bytes > 300_000+1000 {
		t.Errorf("%d bytes were sent, want each once", f.Bytes)
	}
	res, err := s.ReplicationCursor(t.Context(), &pdu.ReplicationCursorReq{Filesystem: "docs"})
	if err != nil || res.GetGuid() != last.Guid {
		t.Errorf("replication cursor: %v, %v", res, err)
	}
}

func TestGivesUpAfterAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeSender(), newFakeReceiver()
		s.Snapshot("bad", "one", 10)
		s.Snapshot("good", "one", 10)
		s.before["Send"] = always(errLost, "bad")
		began := time.Now()
		rep, err := Run(t.Context(), s, r, Options{Attempts: 4, Backoff: Backoff{First: time.Second, Max: 2 * time.Second}})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "given up after 4 attempts") {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(began); d < 2500*time.Millisecond || d > 5*time.Second {
			t.Errorf("the pauses took %v, want half to all of 1+2+2 s", d)
		}
		if rep.Filesystems[0].State != StateFailed || rep.Filesystems[0].Failures != 4 || rep.Filesystems[1].State != StateDone {
			t.Errorf("report is %+v", rep)
		}
	})
}

func TestListingGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeSender(), newFakeReceiver()
		r.before["ListFilesystems"] = always(errLost, "")
		rep, err := Run(t.Context(), s, r, Options{})
		if status.Code(err) != codes.Unavailable || rep.Error == "" || r.count("ListFilesystems") != DefaultAttempts {
			t.Errorf("Run: %v after %d calls", err, r.count("ListFilesystems"))
		}
	})
}

// A long step over a bad line breaks more often than Attempts allows at one place.
func TestProgressRenewsAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeSender(), newFakeReceiver()
		s.Snapshot("docs", "one", 1_000_000)
		s.before["Send"] = func(c call) error {
			if c.n < 20 {
				s.FailAt("docs", int64(c.n)*50_000, io.ErrUnexpectedEOF)
			}
			return nil
		}
		f := mustRun(t, s, r, Options{Attempts: 2, Tokens: s}).Filesystems[0]
		if f.Failures != 19 || f.Bytes > 1_001_000 || steps(f) != ">@one+" {
			t.Errorf("report is %+v", f)
		}
	})
}

func TestPermanentErrors(t *testing.T) {
	tests := map[string]func(*fakeSender, *fakeReceiver){
		"versions of the sender": func(s *fakeSender, _ *fakeReceiver) { s.before["ListFilesystemVersions"] = always(errBroken, "bad") },
		"send":                   func(s *fakeSender, _ *fakeReceiver) { s.before["Send"] = always(errBroken, "bad") },
		"stream":                 func(s *fakeSender, _ *fakeReceiver) { s.FailAt("bad", 50, errBroken) },
		"receiver":               func(_ *fakeSender, r *fakeReceiver) { r.FailAt("bad", 50, errBroken) },
		"completion":             func(s *fakeSender, _ *fakeReceiver) { s.before["SendCompleted"] = always(errBroken, "bad") },
	}
	for name, inflict := range tests {
		t.Run(name, func(t *testing.T) {
			s, r := newFakeSender(), newFakeReceiver()
			for _, path := range []string{"a", "bad", "c"} {
				s.Snapshot(path, "one", 100)
				s.Snapshot(path, "two", 100)
			}
			inflict(s, r)
			rep, err := Run(t.Context(), s, r, Options{InitialPolicy: InitialAll, Tokens: s})
			if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), `"bad"`) {
				t.Errorf("Run: %v", err)
			}
			bad := rep.Filesystems[1]
			if bad.State != StateFailed || bad.Error == "" || !errors.Is(bad.Err(), errBroken) || bad.Failures != 1 || len(bad.Steps) != 0 {
				t.Errorf("the failed one: %+v", bad)
			}
			for _, i := range []int{0, 2} {
				if f := rep.Filesystems[i]; f.State != StateDone || len(f.Steps) != 2 {
					t.Errorf("another one: %+v", f)
				}
			}
		})
	}
}

// breakOnce leaves a resume token of the full step on the receiver, at 500,000 of
// 1,000,000 bytes.
func breakOnce(t *testing.T, s *fakeSender, r *fakeReceiver) {
	t.Helper()
	s.Snapshot("docs", "one", 1_000_000)
	s.FailAt("docs", 500_000, errBroken)
	if _, err := Run(t.Context(), s, r, Options{}); !errors.Is(err, errBroken) {
		t.Fatalf("Run: %v", err)
	}
}

func TestResume(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	breakOnce(t, s, r)
	s.Snapshot("docs", "two", 1000)
	f := mustRun(t, s, r, Options{Tokens: s}).Filesystems[0]
	if steps(f) != ">@one+ @one>@two" || f.Bytes > 502_000 {
		t.Errorf("report is %+v", f)
	}
	if got := r.received[1]; got.ClearResumeToken {
		t.Errorf("a resumed step's request is %v", got)
	}
}

// TestFailure12StaleTokenBlocksFilesystem: it is dropped, and the step starts anew.
func TestFailure12StaleTokenBlocksFilesystem(t *testing.T) {
	remote := &dataconn.RemoteError{Text: "cannot receive resume stream"}
	tests := map[string]func(*fakeSender, *fakeReceiver, *Options){
		"the sender says so":        func(s *fakeSender, _ *fakeReceiver, _ *Options) { s.before["Send"] = on(endpoint.ErrStaleToken, 2) },
		"the sender says something": func(s *fakeSender, _ *fakeReceiver, _ *Options) { s.before["Send"] = on(remote, 2) },
		"the receiver says so":      func(_ *fakeSender, r *fakeReceiver, _ *Options) { r.before["Receive"] = on(endpoint.ErrStaleToken, 2) },
		"it cannot be read":         func(_ *fakeSender, _ *fakeReceiver, opts *Options) { opts.Tokens = unreadable{} },
		"its version is gone":       func(s *fakeSender, _ *fakeReceiver, _ *Options) { destroyOldest(s) },
		"its version is gone, unread": func(s *fakeSender, _ *fakeReceiver, opts *Options) {
			destroyOldest(s)
			opts.Tokens = nil
		},
	}
	for name, inflict := range tests {
		t.Run(name, func(t *testing.T) {
			s, r := newFakeSender(), newFakeReceiver()
			opts := Options{Tokens: s}
			breakOnce(t, s, r)
			s.Snapshot("docs", "two", 1000)
			inflict(s, r, &opts)
			f := mustRun(t, s, r, opts).Filesystems[0]
			if len(f.Notes) != 1 || !strings.HasPrefix(f.Notes[0], "resume token dropped: ") {
				t.Errorf("notes are %q", f.Notes)
			}
			if got := steps(f); strings.Contains(got, "+") || !strings.HasSuffix(got, ">@two") {
				t.Errorf("steps are %q", got)
			}
			if req := r.received[len(r.received)-1]; !req.ClearResumeToken {
				t.Errorf("the request is %v", req)
			}
		})
	}
}

func destroyOldest(s *fakeSender) {
	list, err := s.Source.ListFilesystemVersions(context.Background(), &pdu.ListFilesystemVersionsReq{Filesystem: "docs"})
	if err != nil {
		panic(err)
	}
	req := &pdu.DestroySnapshotsReq{Filesystem: "docs", Snapshots: list.Versions[:1]}
	if _, err := s.DestroySnapshots(context.Background(), req); err != nil {
		panic(err)
	}
}

type unreadable struct{}

func (unreadable) ReadResumeToken(context.Context, string) (endpoint.ResumeStep, error) {
	return endpoint.ResumeStep{}, endpoint.ErrStaleToken
}

// A full disk is not the token's fault: what was received stays resumable.
func TestNoSpaceKeepsToken(t *testing.T) {
	for _, full := range []error{endpoint.ErrNoSpace, &dataconn.RemoteError{Text: "write: no space left on device"}} {
		s, r := newFakeSender(), newFakeReceiver()
		breakOnce(t, s, r)
		r.FailAt("docs", 700_000, full)
		if rep, err := Run(t.Context(), s, r, Options{Tokens: s, Attempts: 1}); !errors.Is(err, full) || rep.Filesystems[0].Failures != 1 {
			t.Errorf("Run on a full disk: %v, %+v", err, rep)
		}
		if f := mustRun(t, s, r, Options{Tokens: s}).Filesystems[0]; steps(f) != ">@one+" || f.Bytes > 301_000 {
			t.Errorf("after space was made: %+v", f)
		}
	}
}

// A peer that offers another bad token each time does not keep a run busy for ever.
func TestEndlessBadTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeSender(), newFakeReceiver()
		breakOnce(t, s, r)
		offset := int64(500_000)
		r.wrap = func(stream io.Reader) io.Reader {
			offset += 1000
			r.FailAt("docs", offset, errBroken)
			return stream
		}
		if _, err := Run(t.Context(), s, r, Options{Tokens: s, Attempts: 3}); !errors.Is(err, errBroken) {
			t.Errorf("Run: %v", err)
		}
		if n := r.count("Receive"); n > 10 {
			t.Errorf("%d receives", n)
		}
	})
}

func TestDivergedFilesystem(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	s.Snapshot("docs", "one", 10)
	s.Snapshot("good", "one", 10)
	other := newFakeSender()
	other.Snapshot("docs", "other", 10)
	other.Snapshot("theirs", "x", 10)
	mustRun(t, other, r, Options{})
	rep, err := Run(t.Context(), s, r, Options{})
	var diverged *DivergedError
	if !errors.Is(err, ErrDiverged) || !errors.As(rep.Filesystems[0].Err(), &diverged) || diverged.Receiver[0].Name != "other" {
		t.Errorf("Run: %v", err)
	}
	if names(t, r, "good") != "one" || names(t, r, "theirs") != "x" || names(t, r, "docs") != "other" {
		t.Error("another filesystem was not replicated, or one of the receiver's was touched")
	}
}

func TestPlaceholders(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	s.Snapshot("a/b", "one", 10) // a is a placeholder on both sides
	s.Snapshot("c", "one", 10)   // c becomes real where the receiver has a placeholder
	other := newFakeSender()
	other.Snapshot("c/d", "x", 10)
	mustRun(t, other, r, Options{})
	mustRun(t, s, r, Options{})
	if names(t, r, "a/b") != "one" || names(t, r, "c") != "one" {
		t.Error("not all was replicated")
	}
	other = newFakeSender()
	other.Snapshot("a", "x", 10)
	mustRun(t, other, r, Options{})
	rep, err := Run(t.Context(), s, r, Options{})
	if !errors.Is(err, ErrOccupied) || rep.Filesystems[0].State != StateFailed || rep.Filesystems[1].State != StateDone {
		t.Errorf("a real filesystem at the place of a placeholder: %v, %+v", err, rep)
	}
}

func TestParentsBeforeChildren(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	for _, path := range []string{"a", "a/b", "a/b/c", "a/x/y", "z"} {
		s.Snapshot(path, "one", 10)
	}
	s.AddFilesystem("a/x") // without snapshots: its children need not wait for it
	s.before["Send"] = on(errLost, 1)
	synctest.Test(t, func(t *testing.T) { mustRun(t, s, r, Options{Concurrency: 5}) })
	for child, parent := range map[string]string{"a/b": "a", "a/b/c": "a/b", "a/x/y": "a"} {
		if slices.Index(r.log, "Receive "+child) < slices.Index(r.log, "Receive "+parent) {
			t.Errorf("%s came before %s: %v", child, parent, r.log)
		}
	}
}

func TestChildrenOfFailedParent(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	for _, path := range []string{"a", "a/b", "z"} {
		s.Snapshot(path, "one", 10)
	}
	s.before["Send"] = always(errBroken, "a")
	rep, err := Run(t.Context(), s, r, Options{})
	if !errors.Is(rep.Filesystems[1].Err(), ErrParent) || !errors.Is(err, errBroken) || names(t, r, "a/b") != "none" || names(t, r, "z") != "one" {
		t.Errorf("Run: %v, %+v", err, rep)
	}
}

func TestConcurrency(t *testing.T) {
	for _, limit := range []int{0, 1, 3} {
		synctest.Test(t, func(t *testing.T) {
			s, r := newFakeSender(), newFakeReceiver()
			for _, path := range []string{"a", "b", "c", "d", "e", "f", "g"} {
				s.Snapshot(path, "one", 10)
			}
			var running, most atomic.Int32
			r.before["Receive"] = func(call) error {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second)
				running.Add(-1)
				return nil
			}
			mustRun(t, s, r, Options{Concurrency: limit})
			if want := int32(max(limit, 1)); most.Load() != want {
				t.Errorf("%d steps at once, want %d", most.Load(), want)
			}
		})
	}
}

func TestEstimates(t *testing.T) {
	for _, limit := range []int{0, 1, 5} {
		synctest.Test(t, func(t *testing.T) {
			s, r := newFakeSender(), newFakeReceiver()
			for _, path := range []string{"a", "b", "c", "d", "e", "f", "g"} {
				s.Snapshot(path, "one", 10)
			}
			var running, most atomic.Int32
			s.before["SendDry"] = func(call) error {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second)
				running.Add(-1)
				return nil
			}
			mustRun(t, s, r, Options{Estimates: limit, DryRun: true})
			if want := int32(cmp.Or(limit, DefaultEstimates)); most.Load() != want || s.count("SendDry") != 7 {
				t.Errorf("%d of %d estimates at once, want %d of 7", most.Load(), s.count("SendDry"), want)
			}
		})
	}
}

// TestCancel: wherever an endpoint hangs, the end of ctx ends the run.
func TestCancel(t *testing.T) {
	errStop := errors.New("operator's stop")
	tests := map[string]func(*fakeSender, *fakeReceiver){
		"list":       func(s *fakeSender, _ *fakeReceiver) { s.before["ListFilesystems"] = hang },
		"versions":   func(s *fakeSender, _ *fakeReceiver) { s.before["ListFilesystemVersions"] = hang },
		"send":       func(s *fakeSender, _ *fakeReceiver) { s.before["Send"] = hang },
		"receive":    func(_ *fakeSender, r *fakeReceiver) { r.before["Receive"] = hang },
		"completion": func(s *fakeSender, _ *fakeReceiver) { s.before["SendCompleted"] = hang },
		"backoff":    func(s *fakeSender, _ *fakeReceiver) { s.before["Send"] = always(errLost, "") },
		"estimate": func(s *fakeSender, r *fakeReceiver) {
			s.before["SendDry"] = hang
			r.before["Receive"] = hang
		},
	}
	for name, inflict := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, r := newFakeSender(), newFakeReceiver()
				for _, path := range []string{"a", "a/b", "c"} { // one step runs, one waits for it, one for a slot
					s.Snapshot(path, "one", 1000)
				}
				inflict(s, r)
				ctx, cancel := context.WithCancelCause(t.Context())
				time.AfterFunc(100*time.Millisecond, func() { cancel(errStop) })
				began := time.Now()
				rep, err := Run(ctx, s, r, Options{})
				if !errors.Is(err, errStop) || time.Since(began) > 100*time.Millisecond {
					t.Errorf("Run: %v after %v", err, time.Since(began))
				}
				for _, f := range rep.Filesystems {
					if f.State != StatePending {
						t.Errorf("%+v", f)
					}
				}
			})
		})
	}
}

func TestDryRun(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	s.Snapshot("docs", "one", 1000)
	s.Snapshot("docs", "two", 10)
	s.Snapshot("photos", "one", 5)
	s.before["SendDry"] = always(errBroken, "photos")
	rep := mustRun(t, s, r, Options{DryRun: true, InitialPolicy: InitialAll})
	want := []PendingStep{{To: "@one", Expected: 1000}, {From: "@one", To: "@two", Expected: 10}}
	if f := rep.Filesystems[0]; !slices.Equal(f.Pending, want) || f.State != StatePending {
		t.Errorf("report is %+v", f)
	}
	if f := rep.Filesystems[1]; len(f.Pending) != 1 || f.Error != "" {
		t.Errorf("without an estimate: %+v", f)
	}
	if s.count("Send")+r.count("Receive")+s.count("SendCompleted") != 0 {
		t.Error("a dry run sends")
	}
}

// slowly makes each Read of a stream take a second.
func slowly(stream io.Reader) io.Reader { return &slowReader{stream} }

type slowReader struct{ io.Reader }

func (s *slowReader) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return s.Reader.Read(p[:min(len(p), 100_000)])
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, r := newFakeSender(), newFakeReceiver()
		s.Snapshot("docs", "one", 1_000_000)
		s.Snapshot("docs", "two", 500_000)
		s.Snapshot("photos", "one", 1000)
		s.FailAt("docs", 400_000, errLost)
		s.before["Send"] = always(errBroken, "photos")
		r.wrap = slowly
		var all []Progress
		_, err := Run(t.Context(), s, r, Options{InitialPolicy: InitialAll, Tokens: s, Progress: func(p Progress) { all = append(all, p) }})
		if !errors.Is(err, errBroken) {
			t.Fatalf("Run: %v", err)
		}
		flowing := 0
		for i, p := range all {
			if i > 0 && (p.Bytes < all[i-1].Bytes || p.StepsDone < all[i-1].StepsDone) {
				t.Errorf("progress goes back: %+v after %+v", p, all[i-1])
			}
			if len(p.Running) == 1 && p.Running[0].Bytes > 0 && p.Running[0].Bytes < p.Running[0].Expected {
				flowing++
			}
		}
		if flowing < 10 {
			t.Errorf("bytes were seen flowing %d times in %d reports", flowing, len(all))
		}
		last := all[len(all)-1]
		if last.Filesystems != 2 || last.Done != 1 || last.Failed != 1 || last.StepsDone != 2 || last.Steps != 3 || len(last.Running) != 0 {
			t.Errorf("the last report is %+v", last)
		}
		if last.Bytes < 1_500_000 || last.Bytes > 1_501_000 || last.Expected != last.Bytes {
			t.Errorf("the last report has %d of %d bytes", last.Bytes, last.Expected)
		}
	})
}

// malformed peers answer with what no peer should.
func TestMalformedAnswers(t *testing.T) {
	docs := &pdu.Filesystem{Path: "docs"}
	good := &pdu.FilesystemVersion{Name: "x", Guid: 7, CreateTXG: 9}
	tests := map[string]func(*fakeSender){
		"nil filesystem":      func(s *fakeSender) { s.list = []*pdu.Filesystem{nil} },
		"empty path":          func(s *fakeSender) { s.list = []*pdu.Filesystem{{}} },
		"filesystem twice":    func(s *fakeSender) { s.list = []*pdu.Filesystem{docs} },
		"nil version":         func(s *fakeSender) { s.extra = []*pdu.FilesystemVersion{nil} },
		"guid 0":              func(s *fakeSender) { s.extra = []*pdu.FilesystemVersion{{Name: "x", CreateTXG: 9}} },
		"version twice":       func(s *fakeSender) { s.extra = []*pdu.FilesystemVersion{good, good} },
		"unknown type":        func(s *fakeSender) { s.extra = []*pdu.FilesystemVersion{{Type: 99, Name: "x", Guid: 1}} },
		"version has no name": func(s *fakeSender) { s.extra = []*pdu.FilesystemVersion{{Guid: 1}} },
	}
	for name, inflict := range tests {
		s, r := newFakeSender(), newFakeReceiver()
		s.Snapshot("docs", "one", 10)
		inflict(s)
		if _, err := Run(t.Context(), s, r, Options{}); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v, want %v", name, err, ErrProtocol)
		}
	}
}

// emptyPeer answers everything with nil.
type emptyPeer struct{ *fakeSender }

func (emptyPeer) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	return nil, nil, nil
}

func (emptyPeer) SendDry(context.Context, *pdu.SendReq) (*pdu.SendRes, error) { return nil, nil }

func TestSendWithoutStream(t *testing.T) {
	s := emptyPeer{newFakeSender()}
	s.Snapshot("docs", "one", 10)
	if _, err := Run(t.Context(), s, newFakeReceiver(), Options{}); !errors.Is(err, ErrProtocol) {
		t.Errorf("Run: %v, want %v", err, ErrProtocol)
	}
}

// quietReceiver takes a broken stream for a whole one.
type quietReceiver struct{ *fakeReceiver }

func (quietReceiver) Receive(_ context.Context, _ *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	_, _ = io.Copy(io.Discard, stream)
	return &pdu.ReceiveRes{}, nil
}

func TestReceiverThatHidesBrokenStream(t *testing.T) {
	s := newFakeSender()
	s.Snapshot("docs", "one", 1000)
	s.FailAt("docs", 500, errBroken)
	if rep, err := Run(t.Context(), s, quietReceiver{newFakeReceiver()}, Options{}); !errors.Is(err, errBroken) || len(rep.Filesystems[0].Steps) != 0 {
		t.Errorf("Run: %v, %+v", err, rep)
	}
}

func TestUnknownInitialPolicy(t *testing.T) {
	rep, err := Run(t.Context(), newFakeSender(), newFakeReceiver(), Options{InitialPolicy: "some"})
	if err == nil || rep == nil || rep.Error == "" {
		t.Errorf("Run: %v, %v", rep, err)
	}
}

func TestReportAsJSON(t *testing.T) {
	s, r := newFakeSender(), newFakeReceiver()
	s.Snapshot("bad", "one", 10)
	s.Snapshot("docs", "one", 10)
	s.before["Send"] = always(errBroken, "bad")
	rep, err := Run(t.Context(), s, r, Options{})
	if !errors.Is(err, errBroken) {
		t.Fatalf("Run: %v", err)
	}
	b, err := json.Marshal(rep)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if f := back.Filesystems[0]; f.State != StateFailed || !strings.Contains(f.Error, errBroken.Error()) || f.Pending[0].To != "@one" {
		t.Errorf("the failed one came back as %+v", f)
	}
	if f := back.Filesystems[1]; f.State != StateDone || f.Steps[0].To != "@one" || f.Steps[0].Bytes == 0 {
		t.Errorf("the other one came back as %+v", f)
	}
}

// Thousands of steps are no more than that many round trips.
func BenchmarkSmallSteps(b *testing.B) {
	for b.Loop() {
		s, r := &synth.Source{}, &synth.Sink{}
		for i := range 1000 {
			s.Snapshot("docs", "v"+string(rune('a'+i%26))+time.Duration(i).String(), 100)
		}
		if _, err := Run(b.Context(), s, r, Options{InitialPolicy: InitialAll}); err != nil {
			b.Fatal(err)
		}
	}
}
