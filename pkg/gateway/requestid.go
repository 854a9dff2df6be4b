package gateway

import (
	"strings"

	"github.com/google/uuid"
)

const (
	// requestHeader carries the id by which a request is found in the log output.
	requestHeader = "X-Request-Id"
	// maxRequestID is how long a client's own may be, in bytes.
	maxRequestID = 128
)

// RequestID is the id that a client gave its request, if it can stand in a log, else a new one.
func RequestID(given string) string {
	if given == "" || len(given) > maxRequestID || strings.ContainsFunc(given, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return uuid.NewString()
	}
	return given
}
