package rpc

import (
	"fmt"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// validate refuses, as endpoint.ErrInvalid, what no endpoint could serve, so that
// a handler may rely on the fields that the protocol promises. A peer decides
// every byte of req. Requests without fields that matter pass.
func validate(req any) error {
	switch r := req.(type) {
	case *pdu.ListFilesystemVersionsReq:
		return endpoint.ValidateFilesystem(r.GetFilesystem())
	case *pdu.ReplicationCursorReq:
		return endpoint.ValidateFilesystem(r.GetFilesystem())
	case *pdu.DestroySnapshotsReq:
		return validateDestroy(r)
	case *pdu.SendReq:
		return validateSend(r)
	case *pdu.SendCompletedReq:
		if r.GetOriginalReq() == nil {
			return fmt.Errorf("%w: no OriginalReq", endpoint.ErrInvalid)
		}
		return validateSend(r.GetOriginalReq())
	case *pdu.ReceiveReq:
		return validateStep(r.GetFilesystem(), r.GetTo(), r.GetReplicationConfig())
	}
	return nil
}

func validateSend(r *pdu.SendReq) error {
	if from := r.GetFrom(); from != nil {
		if err := validateVersion(from); err != nil {
			return fmt.Errorf("field From: %w", err)
		}
	}
	return validateStep(r.GetFilesystem(), r.GetTo(), r.GetReplicationConfig())
}

func validateStep(filesystem string, to *pdu.FilesystemVersion, config *pdu.ReplicationConfig) error {
	if err := endpoint.ValidateFilesystem(filesystem); err != nil {
		return err
	}
	if err := validateSnapshot(to); err != nil {
		return fmt.Errorf("field To: %w", err)
	}
	return validateProtection(config)
}

func validateDestroy(r *pdu.DestroySnapshotsReq) error {
	if err := endpoint.ValidateFilesystem(r.GetFilesystem()); err != nil {
		return err
	}
	for i, v := range r.GetSnapshots() {
		if err := validateSnapshot(v); err != nil {
			return fmt.Errorf("field Snapshots[%d]: %w", i, err)
		}
	}
	return nil
}

// validateSnapshot: only snapshots are sent, received and destroyed.
func validateSnapshot(v *pdu.FilesystemVersion) error {
	if err := validateVersion(v); err != nil {
		return err
	}
	if v.GetType() != pdu.FilesystemVersion_Snapshot {
		return fmt.Errorf("%w: %s %q is not a snapshot", endpoint.ErrInvalid, v.GetType(), v.GetName())
	}
	return nil
}

func validateVersion(v *pdu.FilesystemVersion) error {
	if v == nil {
		return fmt.Errorf("%w: no version", endpoint.ErrInvalid)
	}
	if _, known := pdu.FilesystemVersion_VersionType_name[int32(v.GetType())]; !known {
		return fmt.Errorf("%w: unknown version type %d", endpoint.ErrInvalid, v.GetType())
	}
	if v.GetGuid() == 0 {
		return fmt.Errorf("%w: version GUID is 0", endpoint.ErrInvalid)
	}
	return endpoint.ValidateVersionName(v.GetName())
}

func validateProtection(config *pdu.ReplicationConfig) error {
	p := config.GetProtection()
	if p == nil {
		return fmt.Errorf("%w: no protection in ReplicationConfig", endpoint.ErrInvalid)
	}
	for _, kind := range []pdu.ReplicationGuaranteeKind{p.GetInitial(), p.GetIncremental()} {
		_, known := pdu.ReplicationGuaranteeKind_name[int32(kind)]
		if !known || kind == pdu.ReplicationGuaranteeKind_GuaranteeInvalid {
			return fmt.Errorf("%w: unknown replication guarantee %d", endpoint.ErrInvalid, kind)
		}
	}
	return nil
}
