package endpoint

import (
	"context"
	"errors"
	"testing"

	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/transport"
)

func TestClientIdentity(t *testing.T) {
	if _, err := ClientIdentity(t.Context()); !errors.Is(err, ErrPermission) {
		t.Errorf("without: %v", err)
	}
	for id, good := range map[string]bool{"alice": true, "10.0.0.1": true, "..": false, "a/b": false, "": false} {
		got, err := ClientIdentity(transport.ContextWithClientIdentity(context.Background(), id))
		if good != (err == nil && got == id) || !good && !errors.Is(err, ErrPermission) {
			t.Errorf("%q: %q, %v", id, got, err)
		}
	}
}

func TestCheckReceived(t *testing.T) {
	if err := CheckReceived(&pdu.FilesystemVersion{Name: "a", Guid: 1}); err != nil {
		t.Error(err)
	}
	for _, to := range []*pdu.FilesystemVersion{nil, {Name: "a"}, {Type: pdu.FilesystemVersion_Bookmark, Name: "a", Guid: 1}} {
		if err := CheckReceived(to); !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v", to, err)
		}
	}
}

func TestGuaranteeOf(t *testing.T) {
	config := &pdu.ReplicationConfig{Protection: &pdu.ReplicationConfigProtection{
		Initial:     pdu.ReplicationGuaranteeKind_GuaranteeNothing,
		Incremental: pdu.ReplicationGuaranteeKind_GuaranteeResumability,
	}}
	if GuaranteeOf(config, true) != config.Protection.Initial || GuaranteeOf(config, false) != config.Protection.Incremental {
		t.Error("the wrong one")
	}
	for _, missing := range []*pdu.ReplicationConfig{nil, {}} {
		if kind := GuaranteeOf(missing, true); kind != pdu.ReplicationGuaranteeKind_GuaranteeInvalid {
			t.Errorf("%v: %v", missing, kind)
		}
	}
}
