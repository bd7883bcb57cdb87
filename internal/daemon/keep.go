package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// A keep is the directory that a job keeps its versions in; there is none for datasets,
// whose pool is there or not. Once something was seen in
// it, it may not be gone or empty: a disk that is unmounted leaves it so, and everything
// would begin anew, in full, on the file system below.
type keep struct {
	path string
	used atomic.Bool // something was seen in it
}

// check refuses to begin anew where versions were: endpoint.ErrFailedPrecondition.
func (k *keep) check() error {
	if k.path == "" {
		return nil
	}
	used, err := hasEntries(k.path)
	switch {
	case err == nil && used:
		k.used.Store(true)
	case err != nil && k.used.Load():
		return fmt.Errorf("%w: %s, where versions were, cannot be read: %w", endpoint.ErrFailedPrecondition, k.path, err)
	case k.used.Load():
		return fmt.Errorf("%w: %s is empty, and versions were there: mount its disk again, or, if it was emptied on purpose, restart the daemon",
			endpoint.ErrFailedPrecondition, k.path)
	}
	return nil
}

// hasEntries also mounts what is mounted on demand.
func hasEntries(dir string) (bool, error) {
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close() // it was only read
	_, err = d.ReadDir(1)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return err == nil, err
}

// keptSender tells nobody that there are no snapshots where they are out of reach.
type keptSender struct {
	ownSender
	keep *keep
}

// ListFilesystems implements endpoint.Endpoint.
func (s keptSender) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	if err := s.keep.check(); err != nil {
		return nil, err
	}
	return s.ownSender.ListFilesystems(ctx, req)
}

// keptReceiver refuses what would make the directory anew, or tell a sender that nothing
// was received yet.
type keptReceiver struct {
	ownReceiver
	keep *keep
}

// ListFilesystems implements endpoint.Endpoint.
func (r keptReceiver) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	if err := r.keep.check(); err != nil {
		return nil, err
	}
	return r.ownReceiver.ListFilesystems(ctx, req)
}

// Receive implements endpoint.Receiver.
func (r keptReceiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	if err := r.keep.check(); err != nil {
		return nil, err
	}
	return r.ownReceiver.Receive(ctx, req, stream)
}
