// Package sdk is what a service is written with.
//
// A service is package main with a [Handler], served from main:
//
//	func main() { sdk.Serve(sdk.HandlerFunc(echo)) }
//
//	func echo(ctx context.Context, req *sdk.Request) (*sdk.Response, error) {
//		return &sdk.Response{Body: req.Body}, nil
//	}
//
// [Methods] chooses a handler by the name of the method that is called, and
// [JSON] makes a handler of a func that takes and returns Go values.
//
// What a handler may add is found on it: Start is run once before the first call
// and ends the start if it fails; Stop is run before the process ends; Health says
// whether the service can take calls ([Starter], [Stopper], [Checker]).
//
// Calls run side by side: what they share needs a mutex. A call's ctx ends with
// its caller's deadline, and when the caller goes away. What is printed is the
// service's log, as is what is given to [Host].Log.
package sdk
