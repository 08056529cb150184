// Package mcp offers the operations to agents, as tools of the Model Context
// Protocol over streamable HTTP.
//
// The nouns: a tool is one row of solo.Operations that is marked so; its arguments
// are the row's path, query and body in one flat object; a step is a further call
// that an answer proposes; a resource is something to read: the author's guide,
// pages of the log, sources of versions.
//
// A tool is a call of REST made from within: the arguments become the request that a
// client would have sent, in the name of who sent the message, and the REST gateway
// serves it. So each check that stands there — what a capability allows, bounds,
// quotas — stands here too, and a new row is a tool without further code. What this package adds is made for a model that
// reads: strict schemas, short answers, diagnostics as file:line:col: message, and
// the next step.
//
// What it promises:
//
//   - An answer has at most [MaxAnswer] bytes of JSON. What had to be left out is
//     said (truncated), and a step says how to read it; of logs and events the newest
//     come first.
//   - A caller is offered the tools that its capability leaves of use.
//   - The error of a tool is a result that the model sees, with the code and details
//     of the contract, never with an internal cause.
//   - A caller that goes away, or cancels its request, cancels the work.
//   - It keeps no session: each request stands for itself. The id that initialize
//     hands out serves only to tell whose request a cancellation means.
package mcp
