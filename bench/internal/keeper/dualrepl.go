package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/dualrepl/dualrepl/bench/internal/process"
	"github.com/dualrepl/dualrepl/internal/certs"
)

// Program is the path of dualrepl's.
var Program = "dualrepl"

// Build builds dualrepl's program into dir, from the module that this one replaces: its
// dependencies are not this module's.
func Build(ctx context.Context, dir string) error {
	module, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/dualrepl/dualrepl").Output()
	if err != nil {
		return fmt.Errorf("find dualrepl's module (run this in the folder bench): %w", err)
	}
	Program = filepath.Join(dir, "dualrepl")
	_, err = process.Run(ctx, "go", "build", "-C", strings.TrimSpace(string(module)), "-o", Program, "./cmd/dualrepl")
	return err
}

type dualrepl struct {
	places Places
	daemon *process.Daemon
}

const activeConfig = `jobs:
  - name: data
    type: push
    connect: {type: tls, address: %q, ca: %q, cert: %q, key: %q, server_cn: passive}
    endpoint: {type: dir, store: %q, directories: {data: %q}}
    filesystems: {"<": true}
    snapshotting: {type: manual}
`

const passiveConfig = `jobs:
  - name: kept
    type: sink
    endpoint: {type: dir, root: %q}
    serve: {type: tls, listen: %q, ca: %q, cert: %q, key: %q, client_cns: [active]}
`

func (d *dualrepl) path(name string) string { return filepath.Join(d.places.Active, name) }

// Start implements Keeper.
func (d *dualrepl) Start(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	if err := certs.Make(d.places.Active, "active", "passive"); err != nil {
		return err
	}
	a, p := certs.FilesOf(d.places.Active, "active"), certs.FilesOf(d.places.Active, "passive")
	err = errors.Join(
		os.WriteFile(d.path("active.yml"), fmt.Appendf(nil, activeConfig, address, a.CA, a.Cert, a.Key, d.path("store"), d.places.Source), 0o600),
		os.WriteFile(d.path("passive.yml"), fmt.Appendf(nil, passiveConfig, filepath.Join(d.places.Passive, "root"), address, p.CA, p.Cert, p.Key), 0o600),
	)
	if err != nil {
		return err
	}
	d.daemon, err = process.StartDaemon(d.path("daemon.log"), Program, "daemon", "--config", d.path("passive.yml"))
	if err != nil {
		return err
	}
	return await(ctx, address)
}

// Daemon implements Keeper.
func (d *dualrepl) Daemon() *process.Daemon { return d.daemon }

// Keep implements Keeper.
func (d *dualrepl) Keep(ctx context.Context) (process.Usage, error) {
	taken, err := process.Run(ctx, Program, "snapshot", "data", "--config", d.path("active.yml"))
	if err != nil {
		return taken, err
	}
	replicated, err := process.Run(ctx, Program, "replicate", "data", "--config", d.path("active.yml"))
	return add(taken, replicated), err
}

// Verify implements Keeper.
func (d *dualrepl) Verify(ctx context.Context) (process.Usage, error) {
	return process.Run(ctx, Program, "verify", "kept", "--config", d.path("passive.yml"))
}

// Restore implements Keeper.
func (d *dualrepl) Restore(ctx context.Context, target string) (process.Usage, error) {
	return process.Run(ctx, Program, "restore", "kept", "active/data", target, "--config", d.path("passive.yml"))
}
