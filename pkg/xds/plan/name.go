package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/xds/index"
)

// ClusterName names the cluster of a service's endpoints with some tags, without the service's. Each set of tags
// has a cluster of its own: behind the ingress of another zone all of them have one address, so what tells them
// apart is the server name that the cluster asks for.
func ClusterName(service string, tags map[string]string) string {
	if len(tags) == 0 {
		return service
	}
	return service + "{" + index.FormatTags(tags) + "}"
}

// maxServerName bounds what TLS takes as the name of a server.
const maxServerName = 255

// ServerName is what a cluster asks for in TLS, and by which an ingress finds the endpoints (spec 3.2):
// "backend{mesh=default,version=v1}". The tags are without the service's. A name that TLS could not tell from
// another, for it is too long or has upper-case letters, ends with a hash instead of the tags.
func ServerName(mesh, service string, tags map[string]string) string {
	name := service + "{mesh=" + mesh
	if len(tags) > 0 {
		name += "," + index.FormatTags(tags)
	}
	name += "}"
	if len(name) <= maxServerName && strings.ToLower(name) == name {
		return name
	}
	hash := sha256.Sum256([]byte(name))
	short := strings.ToLower(service)
	return short[:min(len(short), maxServerName-80)] + "{hash=" + hex.EncodeToString(hash[:]) + "}"
}
