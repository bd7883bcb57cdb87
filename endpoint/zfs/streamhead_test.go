package zfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/dualrepl/dualrepl/endpoint"
	"github.com/dualrepl/dualrepl/pdu"
)

// A testRecord makes one of a stream's records.
type testRecord struct {
	kind, payload    uint32
	versionInfo      uint64
	datasetType      uint32
	toGUID, fromGUID uint64
}

func (r testRecord) bytes(order binary.ByteOrder) []byte {
	b := make([]byte, recordSize)
	order.PutUint32(b[offRecordType:], r.kind)
	order.PutUint32(b[offPayloadLength:], r.payload)
	if r.kind == recordBegin {
		order.PutUint64(b[offMagic:], streamMagic)
	}
	order.PutUint64(b[offVersionInfo:], r.versionInfo)
	order.PutUint32(b[offDatasetType:], r.datasetType)
	order.PutUint64(b[offToGUID:], r.toGUID)
	order.PutUint64(b[offFromGUID:], r.fromGUID)
	return append(b, make([]byte, r.payload)...)
}

func plainBegin(features, to, from uint64) testRecord {
	return testRecord{versionInfo: features<<featureShift | streamPlain, datasetType: 2, toGUID: to, fromGUID: from}
}

// packageHead is how a stream with properties begins.
func packageHead(order binary.ByteOrder, inner testRecord) []byte {
	outer := testRecord{versionInfo: streamPackage, payload: 512}
	return bytes.Join([][]byte{outer.bytes(order), testRecord{kind: recordEnd}.bytes(order), inner.bytes(order)}, nil)
}

func TestReadHead(t *testing.T) {
	volume := plainBegin(0, 5, 0)
	volume.datasetType = datasetTypeVolume
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		tests := []struct {
			name string
			head []byte
			want streamHead
		}{
			{"full", plainBegin(4, 5, 0).bytes(order), streamHead{toGUID: 5}},
			{"incremental", plainBegin(4, 5, 3).bytes(order), streamHead{toGUID: 5, fromGUID: 3}},
			{"resumed", plainBegin(featureResuming, 5, 3).bytes(order), streamHead{toGUID: 5, fromGUID: 3, resumed: true}},
			{"raw", plainBegin(featureRaw|4, 5, 0).bytes(order), streamHead{toGUID: 5, raw: true}},
			{"volume", volume.bytes(order), streamHead{toGUID: 5, volume: true}},
			{"properties", packageHead(order, plainBegin(0, 5, 3)), streamHead{toGUID: 5, fromGUID: 3, properties: true}},
		}
		for _, tt := range tests {
			rest := "and its data"
			stream := iotest.HalfReader(io.MultiReader(bytes.NewReader(tt.head), bytes.NewReader([]byte(rest))))
			got, err := readHead(stream)
			if err != nil {
				t.Errorf("%s, %s: %v", tt.name, order, err)
				continue
			}
			if !bytes.Equal(got.bytes, tt.head) {
				t.Errorf("%s, %s: %d bytes were read, want %d", tt.name, order, len(got.bytes), len(tt.head))
			}
			if got.bytes = nil; !equalHeads(*got, tt.want) {
				t.Errorf("%s, %s: %+v, want %+v", tt.name, order, got, tt.want)
			}
			if left, _ := io.ReadAll(stream); string(left) != rest {
				t.Errorf("%s, %s: %q is left of the stream", tt.name, order, left)
			}
		}
	}
}

func equalHeads(a, b streamHead) bool {
	return a.toGUID == b.toGUID && a.fromGUID == b.fromGUID && a.resumed == b.resumed && a.raw == b.raw &&
		a.volume == b.volume && a.properties == b.properties
}

func TestReadHeadRefuses(t *testing.T) {
	order := binary.LittleEndian
	broken := errors.New("broken")
	noEnd := packageHead(order, plainBegin(0, 5, 0))
	copy(noEnd[recordSize+512:], plainBegin(0, 5, 0).bytes(order))
	tests := []struct {
		name   string
		stream io.Reader
		want   error
	}{
		{"empty", bytes.NewReader(nil), io.ErrUnexpectedEOF},
		{"short", bytes.NewReader(plainBegin(0, 5, 0).bytes(order)[:recordSize-1]), io.ErrUnexpectedEOF},
		{"broken", iotest.ErrReader(broken), broken},
		{"short package", bytes.NewReader(noEnd[:recordSize+100]), io.ErrUnexpectedEOF},
		{"zeros", bytes.NewReader(make([]byte, 1024)), endpoint.ErrInvalid},
		{"no BEGIN", bytes.NewReader(testRecord{kind: recordEnd}.bytes(order)), endpoint.ErrInvalid},
		{"unknown kind", bytes.NewReader(testRecord{versionInfo: 3}.bytes(order)), endpoint.ErrInvalid},
		{"package in a package", bytes.NewReader(packageHead(order, testRecord{versionInfo: streamPackage})), endpoint.ErrInvalid},
		{"package without end", bytes.NewReader(noEnd), endpoint.ErrInvalid},
	}
	for _, tt := range tests {
		if _, err := readHead(tt.stream); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	huge := testRecord{versionInfo: streamPackage}.bytes(order)
	order.PutUint32(huge[offPayloadLength:], 1<<32-1)
	if _, err := readHead(bytes.NewReader(huge)); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("properties of 4 GiB: %v", err)
	}
}

func TestHeadFits(t *testing.T) {
	there := &dataset{name: "r/f"}
	broken := &dataset{name: "r/f", token: "1-x"}
	placeholder := &dataset{name: "r/f", placeholder: true}
	brokenPlaceholder := &dataset{name: "r/f", placeholder: true, token: "1-x"}
	full, incremental := streamHead{toGUID: 5}, streamHead{toGUID: 5, fromGUID: 3}
	resumed, resumedIncremental := streamHead{toGUID: 5, resumed: true}, streamHead{toGUID: 5, fromGUID: 3, resumed: true}
	tests := []struct {
		name   string
		head   streamHead
		target *dataset
		clear  bool
		want   error
	}{
		{"full, nothing there", full, nil, true, nil},
		{"full, placeholder", full, placeholder, true, nil},
		{"full, broken step to be dropped", full, brokenPlaceholder, true, nil},
		{"full, broken step not to be dropped", full, brokenPlaceholder, false, endpoint.ErrFailedPrecondition},
		{"incremental", incremental, there, true, nil},
		{"incremental, nothing there", incremental, nil, true, endpoint.ErrFailedPrecondition},
		{"incremental, placeholder", incremental, placeholder, true, endpoint.ErrFailedPrecondition},
		{"incremental, broken step to be dropped", incremental, broken, true, nil},
		{"resumed", resumed, broken, false, nil},
		{"resumed onto a placeholder", resumed, brokenPlaceholder, false, nil},
		{"resumed, nothing there", resumed, nil, false, endpoint.ErrStaleToken},
		{"resumed, no broken step", resumedIncremental, there, false, endpoint.ErrStaleToken},
		{"resumed, broken step to be dropped", resumedIncremental, broken, true, endpoint.ErrStaleToken},
		{"resumed incremental", resumedIncremental, broken, false, nil},
	}
	for _, tt := range tests {
		if err := tt.head.checkTarget(tt.target, tt.clear); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	if err := full.check(&pdu.FilesystemVersion{Guid: 5}); err != nil {
		t.Errorf("the same version: %v", err)
	}
	if err := full.check(&pdu.FilesystemVersion{Guid: 6}); !errors.Is(err, endpoint.ErrInvalid) {
		t.Errorf("another version: %v", err)
	}
}

func FuzzReadHead(f *testing.F) {
	f.Add(plainBegin(featureResuming, 5, 3).bytes(binary.LittleEndian))
	f.Add(packageHead(binary.BigEndian, plainBegin(featureRaw, 5, 0)))
	f.Fuzz(func(t *testing.T, stream []byte) {
		head, err := readHead(bytes.NewReader(stream))
		if err != nil {
			if !errors.Is(err, endpoint.ErrInvalid) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("an error of no kind: %v", err)
			}
			return
		}
		if !bytes.HasPrefix(stream, head.bytes) {
			t.Error("what was read is not how the stream begins")
		}
		if len(head.bytes) > 3*recordSize+maxPackageHeader {
			t.Errorf("%d bytes were read", len(head.bytes))
		}
	})
}
