package daemon

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// TestKeep: a directory may appear and fill, and has to be there from then on.
func TestKeep(t *testing.T) {
	p := newPlace(t)
	k := &keep{path: p.path("root")}
	move := func(from, to string) func() error {
		return func() error { return os.Rename(p.path(from), p.path(to)) }
	}
	mkdir := func(name string) func() error {
		return func() error { return os.Mkdir(p.path(name), 0o700) }
	}
	for _, step := range []struct {
		name string
		do   func() error
		good bool
	}{
		{"not there yet", func() error { return nil }, true},
		{"a mountpoint", mkdir("root"), true},
		{"without its disk again", func() error { return os.Remove(k.path) }, true},
		{"mounted", mkdir("root"), true},
		{"used", mkdir("root/docs"), true},
		{"gone", move("root", "disk"), false},
		{"a mountpoint in its place", mkdir("root"), false},
		{"away", move("root", "mountpoint"), false},
		{"no directory", func() error { return os.WriteFile(k.path, nil, 0o600) }, false},
		{"away again", func() error { return os.Remove(k.path) }, false},
		{"back", move("disk", "root"), true},
	} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		err := k.check()
		if (err == nil) != step.good || err != nil && (!errors.Is(err, endpoint.ErrFailedPrecondition) || !strings.Contains(err.Error(), k.path)) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
}

// TestRootDisappears: a sink whose disk is gone receives nothing until that is back.
func TestRootDisappears(t *testing.T) {
	p := newPlace(t)
	p.start(p.config(pushToSink))
	p.logs.await(t, "replication done", 2) // in the second one the root was seen
	if err := os.Rename(p.path("received"), p.path("disk")); err != nil {
		t.Fatal(err)
	}
	p.logs.await(t, "where versions were, cannot be read", 1)
	if _, err := os.Stat(p.path("received")); !os.IsNotExist(err) {
		t.Errorf("the root was made anew: %v", err)
	}
	if err := os.Rename(p.path("disk"), p.path("received")); err != nil {
		t.Fatal(err)
	}
	p.write("two", "later")
	p.logs.await(t, "version=dr_", strings.Count(p.logs.String(), "version=dr_")+2)
	p.logs.await(t, "replication done", strings.Count(p.logs.String(), "replication done")+2)
	if got := p.received("received/alice/docs"); got["two"] != "later" {
		t.Errorf("received %q", got)
	}
}

// TestStoreDisappears: nor is a snapshot taken into another store.
func TestStoreDisappears(t *testing.T) {
	_, job := newStore(t)
	if err := os.RemoveAll(job.Store()); err != nil {
		t.Fatal(err)
	}
	taken, err := job.Snapshot(t.Context(), false, nil)
	if !errors.Is(err, endpoint.ErrFailedPrecondition) || len(taken) > 0 {
		t.Errorf("%+v, %v", taken, err)
	}
	if _, err := os.Stat(job.Store()); !os.IsNotExist(err) {
		t.Errorf("the store was made anew: %v", err)
	}
	sender, err := job.newSender()
	if err != nil {
		t.Fatal(err)
	}
	if list, err := sender.ListFilesystems(t.Context(), &pdu.ListFilesystemReq{}); !errors.Is(err, endpoint.ErrFailedPrecondition) {
		t.Errorf("a peer is told %v, %v", list, err)
	}
}
