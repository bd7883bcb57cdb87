package quickstart

import (
	"fmt"
	"os"
	"strconv"
	"unicode/utf8"

	"github.com/dualrepl/dualrepl/internal/certs"
)

const sinkTemplate = `# The passive side, written by dualrepl quickstart.
# It keeps what its clients push, each client below a directory of its name.
jobs:
  - name: %s
    type: sink
    endpoint: {type: dir, root: %s}
    serve:
      type: tls
      listen: %s
      ca: %s
      cert: %s
      key: %s
      client_cns: [%s]
`

const pushTemplate = `# The active side, written by dualrepl quickstart.
# It takes snapshots of the directory and pushes them to the passive side.
jobs:
  - name: %s
    type: push
    connect:
      type: tls
      address: %s
      ca: %s
      cert: %s
      key: %s
      server_cn: %s
    endpoint:
      type: dir
      store: %s
      directories: {%s: %s}
    filesystems: {"<": true}
    snapshotting: {type: periodic, prefix: quickstart_, interval: 10m}
`

// writeConfigs writes both sides' configuration files.
func (t *tour) writeConfigs(address string) error {
	if !utf8.ValidString(t.result.Source + t.result.Work) {
		return fmt.Errorf("the paths %q and %q cannot be written to a configuration file: they must be UTF-8", t.result.Source, t.result.Work)
	}
	q := strconv.Quote // what it makes of UTF-8 is a string of YAML too
	t.result.SinkConfig, t.result.PushConfig = t.path("sink.yml"), t.path("push.yml")
	t.result.Received = t.path("received/" + clientName)
	server, client := certs.FilesOf(t.path("certs"), serverName), certs.FilesOf(t.path("certs"), clientName)
	sink := fmt.Sprintf(sinkTemplate, sinkJob, q(t.path("received")),
		q(address), q(server.CA), q(server.Cert), q(server.Key), clientName)
	if err := os.WriteFile(t.result.SinkConfig, []byte(sink), 0o600); err != nil {
		return err
	}
	push := fmt.Sprintf(pushTemplate, pushJob,
		q(address), q(client.CA), q(client.Cert), q(client.Key), serverName,
		q(t.path("store")), filesystem, q(t.result.Source))
	return os.WriteFile(t.result.PushConfig, []byte(push), 0o600)
}
