// Package kds keeps the stores of the global control plane and of its zones in step. A zone holds one stream
// to the global control plane; over it both ends publish what the other may see of their logs, in groups, and
// apply what they get, each group in one transaction with the cursor that says how far they have come.
//
// The same publisher and applier run at both ends. Server is the global control plane's end, Client a zone's.
package kds

import (
	"context"
	"fmt"
	"regexp"
	"time"

	kdsv1 "github.com/meridian-mesh/meridian/proto/meridian/kds/v1"

	"github.com/meridian-mesh/meridian/pkg/resource"
)

// What both ends of a stream rely on.
const (
	// maxFrame is the size of a frame in bytes: one second at 256 kbit/s.
	maxFrame = 32 << 10
	// frameOverhead is what a group's frame may hold beside its changes.
	frameOverhead = 256
	// windowSize is how many bytes may be sent and not yet staged.
	windowSize = 4 << 20
	// creditStep is how much window is given back at once.
	creditStep = 256 << 10
	// maxStagedBytes and maxStagedObjects bound what a session keeps of groups that are not yet applied.
	maxStagedBytes   = 1 << 30
	maxStagedObjects = 200_000
	// maxCopyObjects is that of a zone: the global control plane has what all zones and users made.
	maxCopyObjects = 10 * maxStagedObjects
	// maxZoneObjects and maxZoneBytes bound what the global control plane holds of one zone.
	maxZoneObjects = 200_000
	maxZoneBytes   = 1 << 30
	// maxChange bounds one encoded change. It is far above what a store takes, so that an object that is too
	// large is rejected by name and not with the session.
	maxChange = 16 << 20
	// heartbeatAfter is the silence of the global control plane that a heartbeat breaks; a zone's may be twice that.
	heartbeatAfter = time.Second
	// globalSilence is how long the global control plane bears a zone's silence, zoneSilence the reverse.
	globalSilence = 8 * time.Second
	zoneSilence   = 3 * time.Second
	// maxOffers bounds the keys that a peer may ask for and has not yet got.
	maxOffers = maxStagedObjects
	// maxReplies bounds the control frames that wait to be sent.
	maxReplies = 1 << 17
)

// Table is what the sync needs of the table of kinds; *resource.Table is one.
type Table interface {
	ByKind(resource.Kind) (*resource.Descriptor, bool)
	All() []*resource.Descriptor
}

// Accept says why an object may not be taken into this store: its size, its shape, what it says. The key and
// the origin are those that it would have here.
type Accept func(k resource.Key, origin resource.Origin, spec []byte) error

// Version names the software of one end.
type Version struct {
	// Version is compared: when it changes, keys that were rejected are asked for again.
	Version                      string
	GitTag, GitCommit, BuildDate string
}

func (v Version) proto() *kdsv1.Version {
	return &kdsv1.Version{Version: v.Version, GitTag: v.GitTag, GitCommit: v.GitCommit, BuildDate: v.BuildDate}
}

// Authenticator says whose stream it is, from its metadata and its connection. It is used concurrently.
type Authenticator interface {
	// AuthenticateZone gives the zone that the credentials were issued for; "" trusts the name that the zone
	// gives itself. The session lasts for as long as hold says; nil: there is nothing that could end. An error that
	// carries no gRPC status reaches the zone as Unauthenticated, with its text.
	AuthenticateZone(ctx context.Context) (zone string, hold Hold, err error)
}

// Hold has end called, once at most and perhaps at once, when credentials do not hold any more: they have expired
// or were taken back. The function that it returns must be called when that is of no interest any more.
type Hold = func(end func(reason error)) (release func())

var dnsLabel = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// ValidateZoneName says why a zone can't be called that. "global" is the name of the global control plane.
func ValidateZoneName(name string) error {
	switch {
	case !dnsLabel.MatchString(name):
		return fmt.Errorf("zone name %q: must be a DNS label: up to 63 of a-z, 0-9 and -, with no - at the ends", name)
	case name == string(resource.Global):
		return fmt.Errorf("zone name %q: is reserved for the global control plane", name)
	}
	return nil
}
