// Package endpointtest is a conformance suite: it checks that a sender or a
// receiver keeps the contracts of package endpoint. An endpoint's own tests run it
// with constructors for fresh instances:
//
//	func TestConformance(t *testing.T) {
//		endpointtest.TestSender(t, newSender)
//		endpointtest.TestReceiver(t, func(t *testing.T) (endpointtest.Sender, endpointtest.Receiver) {
//			return newSender(t), endpointtest.Receiver{Receiver: newReceiver(t)}
//		})
//	}
package endpointtest
