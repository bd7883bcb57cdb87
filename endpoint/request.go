package endpoint

import (
	"context"
	"fmt"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

// ClientIdentity is for a receiver that keeps its clients apart: it returns the identity of
// the call's client, which is fit to be a directory's name. The error is ErrPermission.
func ClientIdentity(ctx context.Context) (string, error) {
	id, ok := transport.ClientIdentityFromContext(ctx)
	if !ok {
		return "", fmt.Errorf("%w: the client has no identity", ErrPermission)
	}
	if err := transport.ValidateClientIdentity(id); err != nil {
		return "", fmt.Errorf("%w: %w", ErrPermission, err)
	}
	return id, nil
}

// CheckReceived refuses to receive what is not a snapshot with a GUID. The error is
// ErrInvalid. The name has to be checked, too.
func CheckReceived(to *pdu.FilesystemVersion) error {
	if to.GetGuid() == 0 || to.GetType() != pdu.FilesystemVersion_Snapshot {
		return fmt.Errorf("%w: only a snapshot with a GUID can be received", ErrInvalid)
	}
	return nil
}

// GuaranteeOf is what a request's configuration guarantees for a full step (initial), or
// for any other. What a peer left out is GuaranteeInvalid.
func GuaranteeOf(config *pdu.ReplicationConfig, initial bool) pdu.ReplicationGuaranteeKind {
	if initial {
		return config.GetProtection().GetInitial()
	}
	return config.GetProtection().GetIncremental()
}
