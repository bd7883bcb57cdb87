// Package quickstart shows the whole of dualrepl on one directory: an active and a
// passive side, two processes with mutual TLS between them, replicate it in full
// and then what changed, and what arrived is compared with what was sent.
//
// The contract: the user's directory is only read. Everything that is written lies
// below one work directory, which holds afterwards two configuration files that
// work, with certificates and data, for as long as the user wants to go on with
// them.
package quickstart
