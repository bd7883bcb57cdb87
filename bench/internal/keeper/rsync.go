package keeper

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/dualrepl/dualrepl/bench/internal/process"
)

// rsync keeps each version as a directory, whose unchanged files are links into the
// one before.
type rsync struct {
	places  Places
	count   int                                 // of versions
	serve   func(context.Context, *rsync) error // starts what the passive side needs, and fills in:
	daemon  *process.Daemon                     // the passive side; nil for none
	options []string                            // how to reach it
	target  string                              // where versions go
	link    string                              // where versions are, for --link-dest: some releases fail with relative paths
}

func (r *rsync) version(i int) string { return fmt.Sprintf("v%d", i) }

// newest is the directory of the newest version.
func (r *rsync) newest() string { return filepath.Join(r.places.Passive, r.version(r.count-1)) }

// Start implements Keeper.
func (r *rsync) Start(ctx context.Context) error { return r.serve(ctx, r) }

// Daemon implements Keeper.
func (r *rsync) Daemon() *process.Daemon { return r.daemon }

// Keep implements Keeper.
func (r *rsync) Keep(ctx context.Context) (process.Usage, error) {
	args := append([]string{"-a"}, r.options...)
	if r.count > 0 {
		args = append(args, "--link-dest="+r.link+r.version(r.count-1))
	}
	u, err := process.Run(ctx, "rsync", append(args, r.places.Source+"/", r.target+"/"+r.version(r.count)+"/")...)
	r.count++
	return u, err
}

// Verify implements Keeper. There are no checksums: it compares with the source.
func (r *rsync) Verify(ctx context.Context) (process.Usage, error) {
	return process.Run(ctx, "rsync", "-anc", r.places.Source+"/", r.newest()+"/")
}

// Restore implements Keeper.
func (r *rsync) Restore(ctx context.Context, target string) (process.Usage, error) {
	return copyTree(ctx, r.newest(), target)
}

// rsyncLocal needs nothing on a passive side.
func rsyncLocal(_ context.Context, r *rsync) error {
	r.target, r.link = r.places.Passive, r.places.Passive+"/"
	return nil
}

const rsyncConfig = `use chroot = no
uid = 0
gid = 0
[kept]
path = %s
read only = no
`

// rsyncDaemon is rsync over a socket, without encryption.
func rsyncDaemon(ctx context.Context, r *rsync) error {
	address, port, err := freePort()
	if err != nil {
		return err
	}
	r.target, r.link = "rsync://"+address+"/kept", "/" // of the module
	config := filepath.Join(r.places.Active, "rsyncd.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, rsyncConfig, r.places.Passive), 0o600); err != nil {
		return err
	}
	r.daemon, err = process.StartDaemon(filepath.Join(r.places.Active, "daemon.log"),
		"rsync", "--daemon", "--no-detach", "--address=127.0.0.1", "--port="+port, "--config="+config)
	if err != nil {
		return err
	}
	return await(ctx, address)
}

func freePort() (address, port string, err error) {
	if address, err = freeAddress(); err != nil {
		return "", "", err
	}
	_, port, err = net.SplitHostPort(address)
	return address, port, err
}

const sshdConfig = `ListenAddress 127.0.0.1
HostKey %s
AuthorizedKeysFile %s
StrictModes no
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
`

// rsyncSSH is rsync over ssh, to a server and with keys made for it.
func rsyncSSH(ctx context.Context, r *rsync) error {
	address, port, err := freePort()
	if err != nil {
		return err
	}
	host, user := filepath.Join(r.places.Active, "host_key"), filepath.Join(r.places.Active, "user_key")
	for _, key := range []string{host, user} {
		if _, err := process.Run(ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
			return err
		}
	}
	config := filepath.Join(r.places.Active, "sshd_config")
	if err := os.WriteFile(config, fmt.Appendf(nil, sshdConfig, host, user+".pub"), 0o600); err != nil {
		return err
	}
	if r.daemon, err = startSSHD(filepath.Join(r.places.Active, "daemon.log"), "-D", "-e", "-f", config, "-p", port); err != nil {
		return err
	}
	r.options = []string{"-e", "ssh -F none -p " + port + " -i '" + user + "' -o BatchMode=yes -o IdentitiesOnly=yes" +
		" -o LogLevel=ERROR -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"}
	r.target, r.link = "127.0.0.1:"+r.places.Passive, r.places.Passive+"/"
	return await(ctx, address)
}

// startSSHD finds the server, which wants to be called by its full path, where
// distributions put it.
func startSSHD(log string, args ...string) (*process.Daemon, error) {
	path, err := exec.LookPath("sshd")
	if err != nil {
		path = "/usr/sbin/sshd"
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // that of its unprivileged part
		return nil, err
	}
	return process.StartDaemon(log, path, args...)
}
