package dir

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/dualrepl/dualrepl/endpoint/endpointtest"
)

func TestSenderConforms(t *testing.T) {
	endpointtest.TestSender(t, func(t *testing.T) endpointtest.Sender {
		source := t.TempDir()
		s, err := NewSender(SenderOptions{Store: filepath.Join(t.TempDir(), "store"), Directories: map[string]string{"pool/data": source}, Job: "push"})
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		return endpointtest.Sender{Sender: s, Filesystem: "pool/data", Snapshot: func(t *testing.T, name string) {
			n++
			if err := os.WriteFile(filepath.Join(source, "file"), fmt.Append(nil, "content ", n), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Snapshot(t.Context(), "pool/data", name, SnapshotOptions{}); err != nil {
				t.Fatal(err)
			}
		}}
	})
}
