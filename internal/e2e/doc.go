// Package e2e holds no code of the program: its tests run the built program as
// separate processes, connect them through a proxy that counts, and break them by
// real means (kill -9, a full disk, hostile connections). They also try what the
// documentation says.
package e2e
