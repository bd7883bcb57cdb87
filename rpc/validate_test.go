package rpc

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/dualrepl/dualrepl/dataconn"
	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// malformed are requests that no endpoint could serve: good ones, spoiled.
func malformed() map[string]request {
	bad := map[string]request{}
	for what, spoil := range map[string]func(*pdu.SendReq){
		"empty":                    func(r *pdu.SendReq) { proto.Reset(r) },
		"no To":                    func(r *pdu.SendReq) { r.To = nil },
		"empty To":                 func(r *pdu.SendReq) { r.To = &pdu.FilesystemVersion{} },
		"To of unknown type":       func(r *pdu.SendReq) { r.To.Type = 2 },
		"To of negative type":      func(r *pdu.SendReq) { r.To.Type = -1 },
		"To a bookmark":            func(r *pdu.SendReq) { r.To = bookmark() },
		"To without GUID":          func(r *pdu.SendReq) { r.To.Guid = 0 },
		"To without name":          func(r *pdu.SendReq) { r.To.Name = "" },
		"To with a path":           func(r *pdu.SendReq) { r.To.Name = "../s" },
		"To with an option's name": func(r *pdu.SendReq) { r.To.Name = "s@t" },
		"no filesystem":            func(r *pdu.SendReq) { r.Filesystem = "" },
		"filesystem above":         func(r *pdu.SendReq) { r.Filesystem = "a/../../etc" },
		"filesystem from the root": func(r *pdu.SendReq) { r.Filesystem = "/etc" },
		"filesystem with NUL":      func(r *pdu.SendReq) { r.Filesystem = "a\x00b" },
		"filesystem too long":      func(r *pdu.SendReq) { r.Filesystem = strings.Repeat("a/", 5000) + "a" },
		"no config":                func(r *pdu.SendReq) { r.ReplicationConfig = nil },
		"no protection":            func(r *pdu.SendReq) { r.ReplicationConfig = &pdu.ReplicationConfig{} },
		"no guarantee":             func(r *pdu.SendReq) { r.ReplicationConfig.Protection.Initial = 0 },
		"unknown guarantee":        func(r *pdu.SendReq) { r.ReplicationConfig.Protection.Incremental = 9 },
	} {
		req := sendReq()
		spoil(req)
		bad["SendDry "+what] = request{"SendDry", req}
		bad["Send "+what] = request{"Send", req}
		bad["SendCompleted "+what] = request{"SendCompleted", &pdu.SendCompletedReq{OriginalReq: req}}
		bad["Receive "+what] = request{"Receive", &pdu.ReceiveReq{
			Filesystem: req.Filesystem, To: req.To, ReplicationConfig: req.ReplicationConfig,
		}}
	}
	from := sendReq()
	from.From.Guid = 0
	bad["Send From without GUID"] = request{"Send", from}
	bad["SendDry From without GUID"] = request{"SendDry", from}
	bad["SendCompleted without request"] = request{"SendCompleted", &pdu.SendCompletedReq{}}
	bad["ListFilesystemVersions of nothing"] = request{"ListFilesystemVersions", &pdu.ListFilesystemVersionsReq{}}
	bad["ReplicationCursor of nothing"] = request{"ReplicationCursor", &pdu.ReplicationCursorReq{}}
	bad["DestroySnapshots of nothing"] = request{"DestroySnapshots", &pdu.DestroySnapshotsReq{}}
	bad["DestroySnapshots a bookmark"] = request{"DestroySnapshots", &pdu.DestroySnapshotsReq{
		Filesystem: "a/b", Snapshots: []*pdu.FilesystemVersion{version(), bookmark()},
	}}
	bad["DestroySnapshots an empty one"] = request{"DestroySnapshots", &pdu.DestroySnapshotsReq{
		Filesystem: "a/b", Snapshots: []*pdu.FilesystemVersion{{}},
	}}
	return bad
}

func TestFailure08MalformedRequestsPanic(t *testing.T) {
	client := connect(t, localPair, &fake{hook: func(_ context.Context, method string, req proto.Message) error {
		t.Errorf("%s reached the handler: %v", method, req)
		return nil
	}})
	for name, r := range malformed() {
		t.Run(name, func(t *testing.T) {
			_, err := r.do(t.Context(), client, strings.NewReader("stream"))
			if r.onData() {
				checkRemote(t, err, endpoint.ErrInvalid.Error())
			} else if !errors.Is(err, endpoint.ErrInvalid) || status.Code(err) != codes.InvalidArgument {
				t.Errorf("error is %v", err)
			}
		})
	}
	check(t, client.WaitForConnectivity(t.Context()))
}

// rawCodec sends bytes as they are, under protobuf's name.
type rawCodec struct{}

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

func (rawCodec) Name() string { return "proto" }

// Bytes that are no message at all are an error of the call, and of nothing else.
func TestFailure08UndecodableMessages(t *testing.T) {
	client := connect(t, localPair, &fake{})
	for _, method := range pdu.Replication_ServiceDesc.Methods {
		for _, raw := range []string{"\xff", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "\x0a\x05ab", "\x0a\x01\xff"} {
			err := client.conn.Invoke(t.Context(), "/Replication/"+method.MethodName, []byte(raw), nil, grpc.ForceCodecV2(rawCodec{}))
			if err == nil && method.MethodName != "ListFilesystems" { // has no field that could be wrong
				t.Errorf("%s answers %q", method.MethodName, raw)
			}
		}
	}
	check(t, client.WaitForConnectivity(t.Context()))
}

// checkRemote wants an error that the peer's endpoint answered on the data channel.
func checkRemote(t *testing.T, err error, text string) {
	t.Helper()
	var remote *dataconn.RemoteError
	if !errors.As(err, &remote) || !strings.Contains(remote.Text, text) {
		t.Errorf("error is %v, not the peer's %q", err, text)
	}
}

// What other implementations send must pass: it differs from our own requests in
// nothing that matters.
func TestValidateGoodRequests(t *testing.T) {
	full := sendReq()
	full.From = nil
	snapshot := sendReq()
	snapshot.From.Type = pdu.FilesystemVersion_Snapshot
	resumed := sendReq()
	resumed.ResumeToken = "1-c7b979a2-e0-789c636064"
	cursor := sendReq()
	cursor.From.Name = "zrepl_CURSOR_G_7cc2a2d2e1b3a4f5_J_prod_to_backups"
	named := sendReq()
	named.Filesystem, named.To.Name = "zroot/var/log/A.b-c_d:e f", "zrepl_20260102_030405_000"
	good := append(requests(), request{"Send", full}, request{"Send", snapshot}, request{"Send", resumed},
		request{"Send", cursor}, request{"Send", named}, request{"Ping", &pdu.PingReq{}})
	for _, r := range good {
		if err := validate(r.req); err != nil {
			t.Errorf("%s %v: %v", r.method, r.req, err)
		}
	}
}

// FuzzValidate: whatever bytes a peer sends, validation decides without a panic,
// and what passes has what handlers rely on.
func FuzzValidate(f *testing.F) {
	for _, r := range requests() {
		b, err := proto.Marshal(r.req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, r := range requests() {
			req := r.req.ProtoReflect().New().Interface()
			if proto.Unmarshal(b, req) != nil || validate(req) != nil {
				continue
			}
			if send, ok := req.(*pdu.SendReq); ok && (send.To.Guid == 0 || send.ReplicationConfig.Protection.Initial == 0) {
				t.Errorf("passed: %v", req)
			}
		}
	})
}
