// Package resource is the domain: keys, revisions, objects, the table of kinds, and for each kind its
// defaults, its validation and its public JSON. It does no I/O and imports nothing of ours but the messages.
package resource
