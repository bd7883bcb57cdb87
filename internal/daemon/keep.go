package daemon

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/endpoint/dir"
	"github.com/dualrepl/dualrepl/pdu"
)

// A keep is the directory that a job keeps its versions in. Once it was seen, it has to
// stay the same one: a disk that is unmounted leaves an empty directory in its place, or
// none, and everything would begin anew, in full, on the file system below.
type keep struct {
	path string

	mu   sync.Mutex
	seen fs.FileInfo // nil: it was not there yet
}

// check refuses to go on in another directory than before: endpoint.ErrFailedPrecondition.
func (k *keep) check() error {
	now, err := os.Stat(k.path)
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.seen == nil && err == nil:
		k.seen = now
	case k.seen != nil && (err != nil || !os.SameFile(k.seen, now)):
		return fmt.Errorf("%w: %s is no longer the directory that it was; mount its disk again, or, if it was replaced on purpose, restart the daemon",
			endpoint.ErrFailedPrecondition, k.path)
	}
	return nil
}

// keptReceiver refuses what would make the directory anew, or tell a sender that nothing
// was received yet.
type keptReceiver struct {
	*dir.Receiver
	keep *keep
}

func (j *Job) newReceiver() (keptReceiver, error) {
	receiver, err := newReceiver(j.conf, j.base)
	return keptReceiver{receiver, j.keep}, err
}

func (r keptReceiver) ListFilesystems(ctx context.Context, req *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error) {
	if err := r.keep.check(); err != nil {
		return nil, err
	}
	return r.Receiver.ListFilesystems(ctx, req)
}

func (r keptReceiver) Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error) {
	if err := r.keep.check(); err != nil {
		return nil, err
	}
	return r.Receiver.Receive(ctx, req, stream)
}
