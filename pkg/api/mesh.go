package api

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
	systemv1 "github.com/meridian-mesh/meridian/proto/meridian/system/v1"
)

// The secrets that a mesh is born with; the mesh's name follows.
const (
	dataplaneKeyPrefix  = "dataplane-token-signing-key-"
	envoyAdminKeyPrefix = "envoy-admin-client-token-signing-key-"
)

// meshKeys are the private keys of a new mesh, in PKCS#1 DER.
type meshKeys struct{ dataplane, envoyAdmin []byte }

// mesh adds what goes with the write of a mesh.
func (p *put) mesh(ctx context.Context, st state, old *resource.Object, d *decision, title string) error {
	now := p.message.(*meshv1.Mesh)
	if old != nil {
		before, err := resource.Decode[meshv1.Mesh](old)
		if err != nil {
			return err
		}
		if v := resource.ValidateMeshChange(before, now); len(v) > 0 {
			return invalid(title, detailsInvalid, v)
		}
	}
	v, err := p.authorities.of(ctx, st.after, p.key.Name, now, &d.config)
	if err != nil {
		return err
	}
	if len(v) > 0 {
		return invalid(title, detailsInvalid, v)
	}
	if old != nil || p.dry {
		return nil
	}
	if p.keys == nil {
		if p.keys, err = newMeshKeys(); err != nil {
			return err
		}
	}
	born, err := birth(p.key.Name, p.keys, st.after)
	if err != nil {
		return err
	}
	d.config.Puts = append(d.config.Puts, born...)
	return nil
}

func newMeshKeys() (*meshKeys, error) {
	dataplane, err := auth.NewRSAKey()
	if err != nil {
		return nil, fmt.Errorf("dataplane token signing key: %w", err)
	}
	envoyAdmin, err := auth.NewRSAKey()
	if err != nil {
		return nil, fmt.Errorf("envoy admin signing key: %w", err)
	}
	return &meshKeys{dataplane, envoyAdmin}, nil
}

// birth is what a new mesh brings with it, but for what is written beside it.
func birth(mesh string, keys *meshKeys, beside *overlay) ([]store.Put, error) {
	var puts []store.Put
	for _, d := range resource.MeshDefaults(mesh) {
		if beside.touches(resource.Key{Kind: d.Kind, Scope: mesh, Name: d.Name}) {
			continue
		}
		spec, err := resource.Encode(d.Spec)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", d.Kind, d.Name, err)
		}
		puts = append(puts, store.Put{Key: resource.Key{Kind: d.Kind, Scope: mesh, Name: d.Name}, Spec: spec})
	}
	if ring := dataplaneKeys(mesh); !beside.touches(ring.secret(1)) {
		signing, _, err := ring.puts(1, keys.dataplane)
		if err != nil {
			return nil, err
		}
		puts = append(puts, signing...)
	}
	if key := (resource.Key{Kind: resource.KindSecret, Scope: mesh, Name: envoyAdminKeyPrefix + mesh}); !beside.touches(key) {
		admin, err := secretPut(key, keys.envoyAdmin)
		if err != nil {
			return nil, err
		}
		puts = append(puts, admin)
	}
	return puts, nil
}

// secret lets the public half of a signing key follow the write of its secret. Bytes that are no key have none:
// no token can be signed with them, nor verified.
func (p *put) secret(st state, old *resource.Object, d *decision) error {
	key, err := auth.ParseSigningKey(p.message.(*systemv1.Secret).GetData().GetValue())
	if err != nil {
		key = nil
	}
	return moved(st.after, p.key, old, key, d)
}

// deleteSecret refuses a secret that mutual TLS rests on, and takes a signing key's public half along.
func deleteSecret(st state, old *resource.Object, d *decision) error {
	meshKey := resource.Key{Kind: resource.KindMesh, Name: old.Key.Scope}
	if o, ok := st.after.Get(meshKey); ok {
		mesh, err := resource.Decode[meshv1.Mesh](o)
		if err != nil {
			return err
		}
		for _, b := range mesh.GetMtls().GetBackends() {
			cert, key := resource.CASources(meshKey.Name, b)
			for _, source := range []resource.CASource{cert, key} {
				if source.Secret == old.Key {
					return invalid(titleDelete, detailsInvalid, resource.Violations{{
						Field:   "name",
						Message: fmt.Sprintf("secret %q is in use by the mTLS backend %q of mesh %q: take it out there first", old.Key.Name, b.GetName(), meshKey.Name),
					}})
				}
			}
		}
		d.config.Guards = append(d.config.Guards, store.AtRevision(meshKey, o.Revision))
	}
	return moved(st.after, old.Key, old, nil, d)
}

// deleteMesh lets a mesh go with all that it holds, unless it still has dataplanes.
func deleteMesh(st state, key resource.Key, d *decision) error {
	dataplanes := store.InScope(resource.KindDataplane, key.Name)
	if n := st.after.Count(dataplanes); n > 0 {
		return invalid(titleDelete, detailsInvalid, resource.Violations{{Field: "mesh", Message: fmt.Sprintf("unable to delete mesh, there are still %d dataplanes attached", n)}})
	}
	d.config.Guards = append(d.config.Guards, store.NoneIn(dataplanes))
	d.config.DeleteScopes = append(d.config.DeleteScopes, key.Name)
	d.status.DeleteScopes = append(d.status.DeleteScopes, key.Name)
	return nil
}

// deleteZone lets a zone go with all that came from it, unless it has a session.
func deleteZone(st state, key resource.Key, d *decision) error {
	config, observed := st.before, st.observed
	insight := resource.Key{Kind: resource.KindZoneInsight, Name: key.Name}
	if o, ok := observed.Get(insight); ok {
		in, err := resource.Decode[systemv1.ZoneInsight](o)
		if err != nil {
			return err
		}
		if openSession(in) != nil {
			return invalid(titleDelete, detailsInvalid, resource.Violations{{Field: "zone", Message: fmt.Sprintf("zone %q is online: stop its control plane before deleting it", key.Name)}})
		}
		d.status.Deletes = append(d.status.Deletes, insight)
	}
	origin := resource.Origin(key.Name)
	d.config.Deletes = append(d.config.Deletes, bornIn(config, origin)...)
	refused, err := refusedOf(config, key.Name)
	if err != nil {
		return err
	}
	d.config.Deletes = append(d.config.Deletes, refused...)
	d.status.Deletes = append(d.status.Deletes, bornIn(observed, origin)...)
	// What the zone had sent is gone, so that it must send all of it again if it comes back.
	if _, ok := config.Cursor(key.Name); ok {
		d.config.Forget = append(d.config.Forget, key.Name)
	}
	if _, ok := observed.Cursor(key.Name); ok {
		d.status.Forget = append(d.status.Forget, key.Name)
	}
	return nil
}

// bornIn lists what came from a zone.
func bornIn(v store.View, origin resource.Origin) []resource.Key {
	var keys []resource.Key
	for o := range v.Scan(store.Everything()) {
		if o.Origin == origin {
			keys = append(keys, o.Key)
		}
	}
	return keys
}

// refusedOf lists what was noted here of a zone's objects that could not be taken.
func refusedOf(v store.View, zone string) ([]resource.Key, error) {
	var keys []resource.Key
	for o := range v.Scan(store.OfKind(resource.KindSyncRejection)) {
		if o.Origin != resource.Local {
			continue
		}
		r, err := resource.Decode[systemv1.SyncRejection](o)
		if err != nil {
			return nil, err
		}
		if strings.HasPrefix(r.GetName(), zone+".") {
			keys = append(keys, o.Key)
		}
	}
	return keys, nil
}

const defaultMesh = "default"

// EnsureDefaultMesh makes the mesh "default" with all that a new mesh brings, if it is missing. spec is a Mesh
// as YAML (defaults.mesh), or empty. It is for the assembly to call after the start, where meshes are born and
// defaults.skipMeshCreation is not set. The error names what is wrong with spec.
func (s *Service) EnsureDefaultMesh(ctx context.Context, spec []byte) error {
	d, ok := s.Table.ByKind(resource.KindMesh)
	if !ok {
		return resource.ErrUnknownKind
	}
	key := resource.Key{Kind: d.Kind, Name: defaultMesh}
	in := resource.Input{Spec: d.New()}
	if len(spec) > 0 {
		var err error
		if in, err = resource.DecodeYAML(d, spec); err != nil {
			return fmt.Errorf("defaults.mesh: %w", err)
		}
		if v := agree(d, key, in); len(v) > 0 {
			return fmt.Errorf("defaults.mesh: %w", v)
		}
	}
	p := &put{descriptor: d, key: key, message: in.Spec, authorities: authorities{now: s.Now, readsFiles: true}}
	if err := p.prepare(); err != nil {
		return fmt.Errorf("defaults.mesh: %w", err)
	}
	if err := p.violations.Err(); err != nil {
		return fmt.Errorf("defaults.mesh: %w", err)
	}
	_, _, err := s.write(ctx, titleCreate, func(config, observed store.View) (decision, error) {
		if _, found := config.Get(key); found {
			return decision{}, errThere
		}
		return alone(ctx, config, observed, p)
	})
	if err != nil && !errors.Is(err, errThere) {
		return fmt.Errorf("make the mesh %q: %w", defaultMesh, err)
	}
	return nil
}

var errThere = errors.New("it is there already")
