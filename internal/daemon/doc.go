// Package daemon makes jobs of a configuration and runs them.
//
// A [Job] is one configured job with its endpoint and its way to the peer; the
// commands that do one thing in the foreground use it directly. A [Daemon] runs
// all jobs of a configuration: it takes snapshots and replicates on schedule and
// serves what passive jobs offer.
//
// # Who connects
//
// Jobs that share a listener are behind one rpc.Server, each under a route of its own.
// Usually the active side connects. Where the passive side does, it keeps one connection
// for good, and the active side calls back over it: it replicates as soon as that
// connection is there, and on its schedule while it is. What falls due meanwhile is not
// lost, since the next connection is an occasion by itself.
//
// # Endpoints and pruning
//
// Which type of endpoint a job has makes a difference in endpoint.go alone, and for what
// only directories have: verifying, restoring, and a place that must not be empty. Around
// every endpoint is its job's read-ahead, and one bandwidth limit for all of its streams.
//
// After each replication, both sides are pruned by the job's rules, the one that is far
// away only if it could be reached; after each round of snapshots, those of a job that
// replicates nothing.
//
// # How a daemon stops
//
// When the context of [Daemon.Run] ends, no snapshot and no step begins any more.
// Those that run have [GracePeriod] to finish; then they are cancelled, which
// leaves each step resumable. Run returns when all has ended. A listener whose connections
// active jobs replicate over stays open until they have ended.
//
// # What fails
//
// A snapshot or a replication that fails is logged and tried again at its next
// time; where no snapshot could be taken at all, as of a pool that is not imported yet,
// after five minutes. What needs a person (an address that is taken, a directory that cannot be
// made) ends the daemon with an error.
package daemon
