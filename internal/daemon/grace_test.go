package daemon

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// sender and receiver do as much as steps need, and fail with err.
type sender struct {
	endpoint.Sender
	err error
}

func (s sender) Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error) {
	return &pdu.SendRes{}, nil, s.err
}

func (s sender) SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error) {
	return &pdu.SendCompletedRes{}, s.err
}

type receiver struct {
	endpoint.Receiver
	err error
}

func (r receiver) Receive(context.Context, *pdu.ReceiveReq, io.Reader) (*pdu.ReceiveRes, error) {
	return &pdu.ReceiveRes{}, r.err
}

// testGraceful runs test in virtual time. stop ends the replication's context.
func testGraceful(t *testing.T, test func(g *graceful, work context.Context, stop func())) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		g, work := newGraceful(ctx)
		defer g.close()
		test(g, work, func() { cancel(); synctest.Wait() })
	})
}

func send(g *graceful, work context.Context, filesystem string, err error) error {
	_, _, err = gracefulSender{sender{err: err}, g}.Send(work, &pdu.SendReq{Filesystem: filesystem})
	return err
}

func receive(g *graceful, work context.Context, filesystem string, err error) {
	_, _ = gracefulReceiver{receiver{err: err}, g}.Receive(work, &pdu.ReceiveReq{Filesystem: filesystem}, nil)
}

func complete(g *graceful, work context.Context, filesystem string) {
	_, _ = gracefulSender{sender{}, g}.SendCompleted(work, &pdu.SendCompletedReq{OriginalReq: &pdu.SendReq{Filesystem: filesystem}})
}

// TestGracefulWithoutSteps: what only plans or waits is cancelled at once.
func TestGracefulWithoutSteps(t *testing.T) {
	testGraceful(t, func(_ *graceful, work context.Context, stop func()) {
		if work.Err() != nil {
			t.Fatal("cancelled before the stop")
		}
		stop()
		if !errors.Is(context.Cause(work), errStopping) {
			t.Errorf("cause is %v", context.Cause(work))
		}
	})
}

// TestGracefulSteps: each way that a step can end is its end, and the last one's
// is the replication's.
func TestGracefulSteps(t *testing.T) {
	broken := errors.New("broken")
	for _, tc := range []struct {
		name  string
		steps func(g *graceful, work context.Context)
		ends  bool
	}{
		{"nothing happens", func(*graceful, context.Context) {}, false},
		{"received, not yet completed", func(g *graceful, work context.Context) { receive(g, work, "a", nil) }, false},
		{"completed", func(g *graceful, work context.Context) { receive(g, work, "a", nil); complete(g, work, "a") }, true},
		{"Receive failed", func(g *graceful, work context.Context) { receive(g, work, "a", broken) }, true},
		{"another filesystem's", func(g *graceful, work context.Context) { complete(g, work, "b") }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			testGraceful(t, func(g *graceful, work context.Context, stop func()) {
				if err := send(g, work, "a", nil); err != nil {
					t.Fatal(err)
				}
				if err := send(g, work, "failed", broken); !errors.Is(err, broken) {
					t.Fatal(err)
				}
				stop()
				if work.Err() != nil {
					t.Fatal("cancelled under a running step")
				}
				tc.steps(g, work)
				if ended := work.Err() != nil; ended != tc.ends {
					t.Errorf("ended: %v, want %v", ended, tc.ends)
				}
			})
		})
	}
}

// TestGracefulRunsOutOfGrace: a step that does not end is cancelled.
func TestGracefulRunsOutOfGrace(t *testing.T) {
	testGraceful(t, func(g *graceful, work context.Context, stop func()) {
		if err := send(g, work, "a", nil); err != nil {
			t.Fatal(err)
		}
		stop()
		time.Sleep(GracePeriod - time.Millisecond)
		if work.Err() != nil {
			t.Error("cancelled too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !errors.Is(context.Cause(work), errStopping) {
			t.Errorf("cause is %v", context.Cause(work))
		}
	})
}

// TestGracefulBeginsNothingMore: a step that would begin late waits for the end
// instead of failing, so that nobody draws conclusions from its error.
func TestGracefulBeginsNothingMore(t *testing.T) {
	testGraceful(t, func(g *graceful, work context.Context, stop func()) {
		if err := send(g, work, "a", nil); err != nil {
			t.Fatal(err)
		}
		stop()
		late := make(chan error, 1)
		go func() { late <- send(g, work, "b", nil) }()
		synctest.Wait()
		if len(late) != 0 {
			t.Fatal("the late step did not wait")
		}
		complete(g, work, "a")
		if err := <-late; !errors.Is(err, errStopping) {
			t.Errorf("the late step got %v", err)
		}
	})
}

func TestWithGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		work, end := withGrace(ctx)
		cancel()
		time.Sleep(GracePeriod - time.Millisecond)
		if work.Err() != nil {
			t.Error("cancelled too early")
		}
		time.Sleep(2 * time.Millisecond)
		if !errors.Is(context.Cause(work), errStopping) {
			t.Errorf("cause is %v", context.Cause(work))
		}
		end()
	})
}

func TestWithGraceEndsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		work, end := withGrace(ctx)
		cancel()
		end()
		if work.Err() == nil {
			t.Error("not cancelled")
		}
	})
}
