// Package transporttest is the suite that every transport passes. A test of a
// transport is
//
//	func TestConformance(t *testing.T) {
//		transporttest.Run(t, newPair, transporttest.Options{Identity: "alice"})
//	}
//
// where newPair makes a listener and a connecter to it, and registers with
// t.Cleanup what it must tidy up beside the listener, which Run closes.
package transporttest
