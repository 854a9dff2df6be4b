// Package gateway is the HTTP face of the API: the generated mux over a client connection inside the process,
// with the status codes, bodies and headers that the published API has. It knows paths and names, and decides
// nothing: that is the business of the services behind it.
package gateway
