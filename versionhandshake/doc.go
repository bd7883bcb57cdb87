// Package versionhandshake is the first exchange on every connection: both sides
// send a banner at once, without waiting for the other's, then read the other's.
//
//	LLLLLLLLLL ZREPL_ZFS_REPLICATION PROTOVERSION=VVVV EXTENSIONS=EEEE\n
//	<extension>\n            (EEEE times)
//
// L is the number of bytes after the one space that follows it, in ten decimal
// digits; V the protocol version and E the number of extension lines, in four.
// Extension lines are UTF-8. The banner is plain text on purpose: it can be
// diagnosed with nc.
//
// The versions must be equal. Extension lines are handed up as the peer sent
// them; a feature is on when both sides sent its line, and a line that one does
// not know is ignored. Not one byte after the banner is read, so that the next
// layer may read from the same connection without a buffer in between.
package versionhandshake
