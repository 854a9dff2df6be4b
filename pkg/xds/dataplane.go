package xds

import (
	"errors"
	"fmt"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/resource"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// ParseNodeID splits a node id, <mesh>.<name>, at its first dot.
func ParseNodeID(id string) (resource.Key, error) {
	mesh, name, ok := strings.Cut(id, ".")
	if !ok || mesh == "" || name == "" {
		return resource.Key{}, fmt.Errorf("node.id: %.100q is not <mesh>.<name>", id)
	}
	return resource.Key{Kind: resource.KindDataplane, Scope: mesh, Name: name}, nil
}

// DecodeInline reads a dataplane that a proxy brings along, as JSON or YAML, for the key that the proxy gave.
// The result is complete and valid for the zone. Errors name the field.
func DecodeInline(t *resource.Table, zone string, k resource.Key, body []byte) (*meshv1.Dataplane, error) {
	d, ok := t.ByKind(resource.KindDataplane)
	if !ok {
		return nil, fmt.Errorf("%s: %w", resource.KindDataplane, resource.ErrUnknownKind)
	}
	decode := resource.DecodeYAML
	if strings.HasPrefix(strings.TrimLeft(string(body[:min(len(body), 64)]), " \t\r\n"), "{") {
		decode = resource.DecodeJSON
	}
	in, err := decode(d, body)
	if err != nil {
		return nil, err
	}
	var wrong resource.Violations
	if in.HasType && in.Type != d.Kind {
		wrong.Add("type", fmt.Sprintf("must be %s", d.Kind))
	}
	if in.HasMesh && in.Mesh != k.Scope {
		wrong.Add("mesh", fmt.Sprintf("must be %q as the proxy's is", k.Scope))
	}
	if in.HasName && in.Name != k.Name {
		wrong.Add("name", fmt.Sprintf("must be %q as the proxy's is", k.Name))
	}
	wrong = append(wrong, resource.ValidateName("mesh", k.Scope)...)
	wrong = append(wrong, resource.ValidateName("name", k.Name)...)
	dp, ok := in.Spec.(*meshv1.Dataplane)
	if !ok {
		return nil, errors.New("not a dataplane")
	}
	if d.Default != nil {
		d.Default(k, dp)
	}
	resource.SetZoneTag(dp, zone)
	if d.Validate != nil {
		wrong = append(wrong, d.Validate(k, dp)...)
	}
	if err := wrong.Err(); err != nil {
		return nil, err
	}
	return dp, nil
}
