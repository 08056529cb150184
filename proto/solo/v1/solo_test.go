package solov1_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	_ "google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/solo-run/solo/pkg/solo"
	solov1 "github.com/solo-run/solo/proto/solo/v1"
)

// Ensure that each use case that names an RPC has one, that there is no other,
// and that the types and the streaming agree.
func TestServiceMatchesOperations(t *testing.T) {
	left := map[string]protoreflect.MethodDescriptor{}
	protoregistry.GlobalFiles.RangeFilesByPackage("solo.v1", func(f protoreflect.FileDescriptor) bool {
		for n := range f.Services().Len() {
			service := f.Services().Get(n)
			for i := range service.Methods().Len() {
				m := service.Methods().Get(i)
				left[fmt.Sprintf("/%s/%s", service.FullName(), m.Name())] = m
			}
		}
		return true
	})
	// Over REST the path names the secret.
	named := map[string]string{"RevealRequest": "RevealSecretRequest"}
	for _, op := range solo.Operations() {
		if op.RPC == "" {
			continue
		}
		m, ok := left[op.FullRPC()]
		if !ok {
			t.Errorf("operation %q: no rpc %s", op.Name, op.RPC)
			continue
		}
		delete(left, op.FullRPC())
		if m.IsStreamingServer() != op.Streams || m.IsStreamingClient() {
			t.Errorf("rpc %s: streams = %v, want %v from the server only", op.RPC, m.IsStreamingServer(), op.Streams)
		}
		if op.Request != nil && string(m.Input().Name()) != op.Request.Name() && string(m.Input().Name()) != named[op.Request.Name()] {
			t.Errorf("rpc %s takes %s, want %s", op.RPC, m.Input().Name(), op.Request.Name())
		}
		if op.Response != nil && !op.Streams && string(m.Output().Name()) != op.Response.Name() {
			t.Errorf("rpc %s returns %s, want %s", op.RPC, m.Output().Name(), op.Response.Name())
		}
	}
	for name := range left {
		t.Errorf("rpc %s: no operation", name)
	}
}

// Ensure that every type that an operation takes or gives has a message of its
// name, with exactly its JSON fields and each of a kind that can hold it.
func TestMessagesMatchJSON(t *testing.T) {
	types := vocabulary()
	if len(types) < 20 {
		t.Fatalf("found only %d types: the walk is broken", len(types))
	}
	for _, typ := range types {
		t.Run(typ.Name(), func(t *testing.T) {
			md := message(t, typ.Name()).Descriptor()
			want := map[string]reflect.StructField{}
			for _, f := range reflect.VisibleFields(typ) {
				if name := jsonName(f); name != "" {
					want[name] = f
				}
			}
			for i := range md.Fields().Len() {
				fd := md.Fields().Get(i)
				f, ok := want[string(fd.Name())]
				if !ok {
					t.Errorf("message field %s: no JSON field", fd.Name())
					continue
				}
				delete(want, string(fd.Name()))
				if got, kinds := describe(fd), kindsOf(f.Type); !slices.Contains(kinds, got) {
					t.Errorf("field %s of Go type %v is %s, want one of %v", fd.Name(), f.Type, got, kinds)
				}
			}
			for name := range want {
				t.Errorf("JSON field %s: no message field", name)
			}
		})
	}
}

// Ensure that what REST answers decodes into the message, with everything that
// is absent and with everything that there can be, and that nothing is lost.
func TestAnswersDecode(t *testing.T) {
	for _, typ := range vocabulary() {
		if strings.HasSuffix(typ.Name(), "Request") {
			continue
		}
		for _, full := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/full=%v", typ.Name(), full), func(t *testing.T) {
				v := reflect.New(typ)
				if full {
					fill(v.Elem(), 0)
				}
				data, err := json.Marshal(v.Interface())
				if err != nil {
					t.Fatal(err)
				}
				m := message(t, typ.Name()).New().Interface()
				if err := protojson.Unmarshal(data, m); err != nil {
					t.Fatalf("decode %s: %v", data, err)
				}
				if full {
					everySet(t, m.ProtoReflect())
				}
			})
		}
	}
}

// Ensure that values arrive as what they were, where a decoder could bend them.
func TestServiceValues(t *testing.T) {
	pid, signal := 4711, "SIGKILL"
	at := time.Date(2026, 3, 1, 12, 30, 15, 123456789, time.UTC)
	in := solo.Service{
		ServiceID: "echo", State: solo.StateBackoff, PID: &pid,
		Usage:     &solo.Usage{MemoryBytes: 1<<63 + 1},
		StartedAt: &at,
		LastExit:  &solo.Exit{Reason: solo.ReasonOOM, Signal: &signal, At: at, LogTail: []string{}, Details: map[string]any{"limit": 512.0}},
	}
	data, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var got solov1.Service
	if err := protojson.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := &solov1.Service{
		ServiceId: "echo", State: "backoff", Pid: proto.Int32(4711),
		RestartLimits: &solov1.RestartLimits{}, Backoff: &solov1.Backoff{}, Health: &solov1.HealthPolicy{}, Limits: &solov1.Limits{},
		Usage:     &solov1.Usage{MemoryBytes: 1<<63 + 1},
		StartedAt: timestamppb.New(at),
		LastExit:  &solov1.Exit{Reason: "oom", Signal: &signal, At: timestamppb.New(at)},
	}
	want.LastExit.Details = got.GetLastExit().GetDetails()
	if limit := got.GetLastExit().GetDetails().GetFields()["limit"].GetNumberValue(); limit != 512 {
		t.Errorf("details.limit = %v, want 512", limit)
	}
	if !proto.Equal(&got, want) {
		t.Errorf("got  %v\nwant %v", &got, want)
	}
}

// vocabulary is every struct of pkg/solo that JSON of an operation can hold.
func vocabulary() []reflect.Type {
	var out []reflect.Type
	var walk func(t reflect.Type)
	walk = func(t reflect.Type) {
		switch t.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(t.Elem())
		case reflect.Struct:
			if t.PkgPath() != reflect.TypeFor[solo.Service]().PkgPath() || slices.Contains(out, t) {
				return
			}
			out = append(out, t)
			for _, f := range reflect.VisibleFields(t) {
				if jsonName(f) != "" {
					walk(f.Type)
				}
			}
		}
	}
	for _, op := range solo.Operations() {
		if op.Request != nil {
			walk(op.Request)
		}
		if op.Response != nil {
			walk(op.Response)
		}
	}
	return out
}

func message(t *testing.T, name string) protoreflect.MessageType {
	t.Helper()
	mt, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName("solo.v1." + name))
	if err != nil {
		t.Fatalf("no message %s: %v", name, err)
	}
	return mt
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	if name == "-" {
		return ""
	}
	return name
}

// describe says what a field can hold: "optional int32", "repeated Diagnostic".
func describe(fd protoreflect.FieldDescriptor) string {
	if fd.IsMap() {
		return "map<" + fd.MapKey().Kind().String() + ", " + scalar(fd.MapValue()) + ">"
	}
	s := scalar(fd)
	switch {
	case fd.IsList():
		return "repeated " + s
	case fd.HasOptionalKeyword():
		return "optional " + s
	}
	return s
}

func scalar(fd protoreflect.FieldDescriptor) string {
	if m := fd.Message(); m != nil {
		return string(m.Name())
	}
	return fd.Kind().String()
}

// kindsOf are the descriptions that can hold a Go type's JSON. A source is text
// in JSON and bytes in a message.
func kindsOf(t reflect.Type) []string {
	prefixed := func(prefix string, kinds []string) []string {
		var out []string
		for _, k := range kinds {
			out = append(out, prefix+k)
		}
		return out
	}
	switch {
	case t == reflect.TypeFor[time.Time]():
		return []string{"Timestamp"}
	case t == reflect.TypeFor[map[string]any]():
		return []string{"Struct"}
	case t == reflect.TypeFor[map[string]string]():
		return []string{"map<string, string>", "map<string, bytes>"}
	case t == reflect.TypeFor[solo.Sensitive]():
		return []string{"string"}
	case t == reflect.TypeFor[*string]():
		return []string{"optional string", "optional bytes"}
	}
	switch t.Kind() {
	case reflect.Interface:
		return []string{"Value"}
	case reflect.String:
		return []string{"string"}
	case reflect.Bool:
		return []string{"bool"}
	case reflect.Int:
		return []string{"int32", "int64"}
	case reflect.Int64:
		return []string{"int64"}
	case reflect.Uint64:
		return []string{"uint64"}
	case reflect.Float64:
		return []string{"double"}
	case reflect.Struct:
		return []string{t.Name()}
	case reflect.Pointer:
		if t.Elem().Kind() == reflect.Struct {
			return kindsOf(t.Elem())
		}
		return prefixed("optional ", kindsOf(t.Elem()))
	case reflect.Slice:
		return prefixed("repeated ", kindsOf(t.Elem()))
	case reflect.Map:
		var out []string
		for _, k := range kindsOf(t.Elem()) {
			out = append(out, "map<string, "+k+">")
		}
		return out
	}
	return nil
}

// fill sets every field to something that is not its zero value. A tree, which
// holds itself, has leaves.
func fill(v reflect.Value, depth int) {
	if depth > 10 {
		panic("a type of the vocabulary holds itself")
	}
	if v.Type() == reflect.TypeFor[[]solo.TreeNode]() && depth > 1 {
		v.Set(reflect.ValueOf([]solo.TreeNode{{Name: "leaf"}}))
		return
	}
	switch v.Interface().(type) {
	case time.Time:
		v.Set(reflect.ValueOf(time.Date(2026, 3, 1, 12, 0, 0, 5, time.UTC)))
		return
	case map[string]any:
		v.Set(reflect.ValueOf(map[string]any{"a": []any{1.5, nil, "x"}}))
		return
	}
	switch v.Kind() {
	case reflect.Interface:
		v.Set(reflect.ValueOf("any"))
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(7)
	case reflect.Uint64:
		v.SetUint(1 << 60)
	case reflect.Float64:
		v.SetFloat(0.5)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), depth+1)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0), depth+1)
	case reflect.Map:
		e := reflect.New(v.Type().Elem()).Elem()
		fill(e, depth+1)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("k"), e)
	case reflect.Struct:
		for i := range v.NumField() {
			if jsonName(v.Type().Field(i)) != "" {
				fill(v.Field(i), depth+1)
			}
		}
	default:
		panic("no filling for " + v.Type().String())
	}
}

// everySet fails for each field of m, however deep, that decoding left empty.
func everySet(t *testing.T, m protoreflect.Message) {
	t.Helper()
	if m.Descriptor().ParentFile().Package() != "solo.v1" {
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		fd := m.Descriptor().Fields().Get(i)
		if !m.Has(fd) {
			t.Errorf("%s is empty", fd.FullName())
			continue
		}
		switch {
		case fd.IsMap() && fd.MapValue().Message() != nil:
			m.Get(fd).Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				everySet(t, v.Message())
				return true
			})
		case fd.IsList() && fd.Message() == m.Descriptor(): // of a tree the root stands for all
		case fd.IsList() && fd.Message() != nil:
			everySet(t, m.Get(fd).List().Get(0).Message())
		case !fd.IsMap() && !fd.IsList() && fd.Message() != nil:
			everySet(t, m.Get(fd).Message())
		}
	}
}
