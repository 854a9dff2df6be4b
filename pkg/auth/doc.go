// Package auth says who is calling: by the loopback interface, by a client certificate, or by a token that a
// control plane signed. It knows no store and no API; keys are handed in.
package auth
