package endpoint

import "errors"

// The decisions that a caller makes about an endpoint's error, one sentinel each.
// Endpoints wrap them with %w; errors.Is finds them on the caller's side, also
// across the control channel.
var (
	// ErrNotFound: the filesystem or version does not exist.
	ErrNotFound = errors.New("not found")
	// ErrInvalid: the request can never succeed as it stands.
	ErrInvalid = errors.New("invalid request")
	// ErrBusy: another operation holds the filesystem; try again later.
	ErrBusy = errors.New("busy")
	// ErrNoSpace: no room on the receiver; try again after space was made.
	ErrNoSpace = errors.New("no space left")
	// ErrStaleToken: the resume token does not fit; drop it and start the step anew.
	ErrStaleToken = errors.New("resume token does not fit")
	// ErrPermission: this client may not do that.
	ErrPermission = errors.New("not permitted")
	// ErrUnimplemented: the endpoint does not do this.
	ErrUnimplemented = errors.New("not implemented by this endpoint")
	// ErrLimit: the client has all that the server gives to one; try again later.
	ErrLimit = errors.New("over a limit")
	// ErrFailedPrecondition: the filesystem's state forbids it (a held snapshot, a missing From).
	ErrFailedPrecondition = errors.New("precondition failed")
)
