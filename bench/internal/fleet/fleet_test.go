package fleet

import (
	"errors"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
	"github.com/dualrepl/dualrepl/replication"
)

// Sender and receiver have the same versions: there is nothing to do, and all to compare.
func TestPlan(t *testing.T) {
	f := Fleet{Filesystems: 3, Versions: 4}
	report, err := replication.Run(t.Context(), f, f, replication.Options{DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := report.Err(); err != nil {
		t.Error(err)
	}
	if n := len(report.Filesystems); n != 3 {
		t.Errorf("%d filesystems were planned, want 3", n)
	}
}

func TestListFilesystemVersions(t *testing.T) {
	res, err := Fleet{Versions: 5}.ListFilesystemVersions(t.Context(), &pdu.ListFilesystemVersionsReq{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	for _, v := range res.GetVersions() {
		if err := endpoint.ValidateVersionName(v.GetName()); err != nil {
			t.Error(err)
		}
		seen[v.GetGuid()] = true
	}
	if len(seen) != 5 {
		t.Errorf("%d versions, want 5", len(seen))
	}
}

func TestHoldsNothing(t *testing.T) {
	if _, _, err := (Fleet{}).Send(t.Context(), &pdu.SendReq{}); !errors.Is(err, endpoint.ErrUnimplemented) {
		t.Errorf("Send: %v", err)
	}
}
