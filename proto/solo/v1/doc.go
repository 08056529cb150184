// Package solov1 is Solo's API as messages: what package solo.v1 of solo.proto,
// beside this file, describes, and a gRPC client and server for it.
//
// The answers of REST decode into the messages too:
//
//	err := protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(answer, service)
//
// A field keeps its name, number and meaning; fields are added, and a reader
// passes over those that it does not know.
package solov1
