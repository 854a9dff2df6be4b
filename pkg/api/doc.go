// Package api is the public API as gRPC services: it authorises, decodes, decides on a view of the store, and
// writes what it decided under guards. HTTP is the gateway's business.
package api
