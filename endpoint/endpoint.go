package endpoint

import (
	"context"
	"io"

	"github.com/dualrepl/dualrepl/pdu"
)

// Endpoint is what a sender and a receiver have in common. All methods may be
// called concurrently; each ends early, with the context's error, when ctx does.
//
// Errors: a filesystem or version that does not exist is ErrNotFound, a request
// that can never succeed as it stands is ErrInvalid, work that somebody else is
// doing is ErrBusy. What an endpoint does not do at all is ErrUnimplemented.
type Endpoint interface {
	// ListFilesystems lists every filesystem, placeholders included, parents
	// before children. A receiver sets ResumeToken where it holds the beginning
	// of a broken step.
	ListFilesystems(context.Context, *pdu.ListFilesystemReq) (*pdu.ListFilesystemRes, error)

	// ListFilesystemVersions lists the snapshots and bookmarks of one filesystem
	// in ascending order of CreateTXG. What it returned must not change afterwards:
	// a server sends it in pages.
	ListFilesystemVersions(context.Context, *pdu.ListFilesystemVersionsReq) (*pdu.ListFilesystemVersionsRes, error)

	// DestroySnapshots destroys snapshots and answers with one result for each,
	// in the order of the request. A version that is not a snapshot fails the
	// whole request with ErrInvalid; any other failure is that result's Error.
	DestroySnapshots(context.Context, *pdu.DestroySnapshotsReq) (*pdu.DestroySnapshotsRes, error)

	// SendCompleted says that the receiver has the whole step. A sender moves its
	// replication cursor to the step's To and lets go of what it held for the
	// step; a receiver has nothing to do and succeeds.
	SendCompleted(context.Context, *pdu.SendCompletedReq) (*pdu.SendCompletedRes, error)

	// ReplicationCursor tells the sender's mark of the last version known to be on
	// the receiver. A receiver answers ErrUnimplemented.
	ReplicationCursor(context.Context, *pdu.ReplicationCursorReq) (*pdu.ReplicationCursorRes, error)
}

// A Sender is where data comes from.
type Sender interface {
	Endpoint

	// SendDry estimates a step without sending it. ExpectedSize 0 is unknown.
	SendDry(context.Context, *pdu.SendReq) (*pdu.SendRes, error)

	// Send starts a step. The caller reads the stream to io.EOF and closes it;
	// closing it early, or the end of ctx, ends the step. With a resume token the
	// stream continues where the receiver's data ends; a token that does not fit
	// the request or what the sender has is ErrStaleToken.
	Send(context.Context, *pdu.SendReq) (*pdu.SendRes, io.ReadCloser, error)
}

// A Receiver is where data goes to.
type Receiver interface {
	Endpoint

	// Receive reads stream to io.EOF and makes its content the version To, whole
	// or not at all. An error that stream.Read returned is in the chain of the
	// error that Receive returns. Where the endpoint can, a broken step leaves a
	// resume token behind. No two receives go into one filesystem: ErrBusy. No
	// room for the data is ErrNoSpace. It does not close the stream. A Read of it
	// that has begun may be waited for: it has to end when ctx does.
	Receive(ctx context.Context, req *pdu.ReceiveReq, stream io.Reader) (*pdu.ReceiveRes, error)
}

// ResumeStep is the step that a resume token continues.
type ResumeStep struct {
	FromGUID uint64 // 0: a full step
	ToGUID   uint64
}

// A TokenReader is an endpoint (either side, always the local one) that can read
// resume tokens. Where the local endpoint is none, tokens are passed on unread to
// the step that the planner would take anyway.
type TokenReader interface {
	// ReadResumeToken returns ErrStaleToken if it cannot read the token.
	ReadResumeToken(ctx context.Context, token string) (ResumeStep, error)
}
