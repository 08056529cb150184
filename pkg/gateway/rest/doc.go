// Package rest serves the operations of the daemon over HTTP and JSON, with
// labstack/echo.
//
// The nouns: an operation is a row of solo.Operations; a call is one request of
// it; the engine is who does the work, seen through an interface of its own.
//
// What it promises:
//
//   - The routes are the table: a row without a handler, or a handler without a
//     row, is an error at start.
//   - Every input is bounded before it is parsed: headers, body, names, numbers. A
//     body is read strictly, and every fault of it is told at once.
//   - Every error is the one envelope with a code of the closed set. Causes are
//     logged under the request's id and never sent.
//   - A stream is a cursor: it reads a page, writes it, and waits. A reader that
//     does not read loses its own stream and delays nobody.
package rest
