package api

import (
	"context"
	"errors"
	"mime"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

const (
	// maxAttempts bounds how often a write is decided anew because others wrote what it had read.
	maxAttempts = 16
	// conflictWait bounds the wait for the write that was in the way to become visible.
	conflictWait = 100 * time.Millisecond
)

// caInfix stands between a mesh's name and the rest of the names of the secrets with its CA.
const caInfix = ".ca-"

// decision is what a write does: a batch of the config log, and what follows in the status log.
type decision struct {
	config  store.Batch
	status  store.Batch
	created bool
}

// write decides on a view and applies the decision under its guards; on a conflict it decides again.
func (s *Service) write(ctx context.Context, title string, decide func(config, observed store.View) (decision, error)) (decision, resource.Revision, error) {
	log := s.Store.Config()
	for attempt := 1; ; attempt++ {
		observed, view := s.Store.Status().View(), log.View()
		d, err := decide(view, observed)
		if err != nil {
			return d, 0, err
		}
		d.config.Author = author(ctx)
		res, err := log.Apply(ctx, d.config)
		switch {
		case err == nil:
			s.follow(ctx, d)
			return d, res.Revision, nil
		case !errors.Is(err, store.ErrConflict) || attempt == maxAttempts:
			return d, 0, s.storeError(err, title)
		}
		// What was in the way may still be on its way into the view.
		wait, cancel := context.WithTimeout(ctx, conflictWait)
		_, err = log.Await(wait, view.Revision()+1)
		cancel()
		if err != nil && ctx.Err() != nil {
			return d, 0, s.storeError(ctx.Err(), title)
		}
	}
}

// follow applies what a write means for the status log. The write itself is done and answered whatever comes
// of it: what was observed is never what decides.
func (s *Service) follow(ctx context.Context, d decision) {
	b := d.status
	if len(b.Deletes)+len(b.DeleteScopes) == 0 && b.Cursor == nil {
		return
	}
	b.Author = d.config.Author
	if _, err := s.Store.Status().Apply(context.WithoutCancel(ctx), b); err != nil {
		s.Logger.WarnContext(ctx, "what was observed of a deleted resource stays", "error", err)
	}
}

// Put implements the ResourceService.
func (s *Service) Put(ctx context.Context, req *apiv1.PutRequest) (*apiv1.PutResponse, error) {
	d, key, err := s.item(req.GetPlural(), req.GetScope(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.writable(d); err != nil {
		return nil, err
	}
	decode, err := s.decoder(incoming(ctx, contentTypeKey))
	if err != nil {
		return nil, err
	}
	if err := s.mayWrite(ctx, d); err != nil {
		return nil, err
	}
	in, err := decode(d, req.GetBody())
	if err != nil {
		return nil, bodyError(err)
	}
	if v := agree(d, key, in); len(v) > 0 {
		return nil, invalid(titleProcess, detailsInvalid, v)
	}
	if dp, ok := in.Spec.(*meshv1.Dataplane); ok && s.Mode == Zone {
		resource.SetZoneTag(dp, s.Zone)
	}
	c, _ := auth.CallerFrom(ctx)
	p := &put{limits: s.Limits, descriptor: d, key: key, message: in.Spec, authorities: authorities{now: s.Now, readsFiles: s.Policy.Admin(c)}}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	done, revision, err := s.write(ctx, titleUpdate, func(config, observed store.View) (decision, error) {
		return p.decide(ctx, config, observed)
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.PutResponse{Created: done.created, Revision: uint64(revision)}, nil
}

// decoder chooses by media type. A body without one is taken for JSON.
func (s *Service) decoder(contentType string) (func(*resource.Descriptor, []byte) (resource.Input, error), error) {
	if contentType == "" {
		return s.Limits.DecodeJSON, nil
	}
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, unsupported()
	}
	switch t {
	case "application/json":
		return s.Limits.DecodeJSON, nil
	case "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml":
		return s.Limits.DecodeYAML, nil
	}
	return nil, unsupported()
}

// agree compares what a body says of itself with its path. What it leaves out is taken from the path.
func agree(d *resource.Descriptor, key resource.Key, in resource.Input) resource.Violations {
	var v resource.Violations
	if in.HasName && in.Name != key.Name {
		v.Add("name", "name from the URL has to be the same as in body")
	}
	if in.HasType && in.Type != d.Kind && !slices.Contains(d.TypeAliases, in.Type) {
		v.Add("type", "type from the URL has to be the same as in body")
	}
	if d.Scope == resource.ScopeMesh && in.HasMesh && in.Mesh != key.Scope {
		v.Add("mesh", "mesh from the URL has to be the same as in body")
	}
	if len(v) > 0 {
		return v
	}
	name := key.Name
	if d.Kind == resource.KindSecret {
		// The halves of a mesh's CA have a name with a dot; an export has them.
		name = strings.TrimPrefix(name, key.Scope+caInfix)
	}
	v = append(v, resource.ValidateName("name", name)...)
	if d.Scope == resource.ScopeMesh {
		v = append(v, resource.ValidateName("mesh", key.Scope)...)
	}
	return v
}

// put is one write of a resource, decided perhaps several times.
type put struct {
	limits     resource.Limits
	descriptor *resource.Descriptor
	key        resource.Key
	message    proto.Message
	spec       []byte
	violations resource.Violations
	// keys are made once for a new mesh.
	keys *meshKeys
	// authorities makes the CAs of a mesh.
	authorities authorities
}

// prepare does what needs no view.
func (p *put) prepare() error {
	d := p.descriptor
	if d.Default != nil {
		d.Default(p.key, p.message)
	}
	if d.Validate != nil {
		p.violations = d.Validate(p.key, p.message)
	}
	var err error
	if p.spec, err = resource.Encode(p.message); err != nil {
		return bodyError(err)
	}
	if err := p.limits.CheckSize(p.spec); err != nil {
		return bodyError(err)
	}
	return nil
}

func (p *put) decide(ctx context.Context, config, _ store.View) (decision, error) {
	old, found := config.Get(p.key)
	d := decision{created: !found}
	title := titleUpdate
	if !found {
		title = titleCreate
	}
	if len(p.violations) > 0 {
		return d, invalid(title, detailsInvalid, p.violations)
	}
	write := store.Put{Key: p.key, Spec: p.spec}
	if found {
		write.Origin = old.Origin
	}
	d.config.Puts = []store.Put{write}

	guard := store.AtRevision(p.key, 0)
	if found {
		guard = store.Exists(p.key)
	} else if p.key.Scope != "" {
		mesh := resource.Key{Kind: resource.KindMesh, Name: p.key.Scope}
		if _, ok := config.Get(mesh); !ok {
			return d, fail(codes.InvalidArgument, titleCreate, "Mesh is not found", resource.Violation{Field: "mesh", Message: "mesh of name " + p.key.Scope + " is not found"})
		}
		d.config.Guards = append(d.config.Guards, store.Exists(mesh))
	}

	var err error
	switch p.key.Kind {
	case resource.KindMesh:
		if found {
			guard = store.AtRevision(p.key, old.Revision)
		}
		err = p.mesh(ctx, config, old, &d, title)
	case resource.KindSecret, resource.KindGlobalSecret:
		if found {
			guard = store.AtRevision(p.key, old.Revision)
		}
		v, wrong := p.upholds(config, &d.config)
		if wrong != nil {
			return d, wrong
		}
		if len(v) > 0 {
			return d, invalid(title, detailsInvalid, v)
		}
		err = p.secret(config, old, &d)
	case resource.KindRevocation:
		err = forget(config, time.Now(), &d)
	}
	d.config.Guards = append(d.config.Guards, guard)
	return d, err
}

// Delete implements the ResourceService.
func (s *Service) Delete(ctx context.Context, req *apiv1.DeleteRequest) (*apiv1.DeleteResponse, error) {
	d, key, err := s.item(req.GetPlural(), req.GetScope(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.writable(d); err != nil {
		return nil, err
	}
	if err := s.mayWrite(ctx, d); err != nil {
		return nil, err
	}
	_, revision, err := s.write(ctx, titleDelete, func(config, observed store.View) (decision, error) {
		old, found := config.Get(key)
		if !found {
			return decision{}, notFound(titleDelete)
		}
		done := decision{config: store.Batch{Deletes: []resource.Key{key}, Guards: []store.Guard{store.AtRevision(key, old.Revision)}}}
		var err error
		switch key.Kind {
		case resource.KindMesh:
			err = deleteMesh(config, key, &done)
		case resource.KindZone:
			err = deleteZone(config, observed, key, &done)
		case resource.KindSecret:
			err = deleteSecret(config, old, &done)
		case resource.KindGlobalSecret:
			err = moved(config, key, old, nil, &done)
		case resource.KindDataplane:
			for _, k := range []resource.Kind{resource.KindDataplaneInsight, resource.KindProxyPosition} {
				seen := resource.Key{Kind: k, Scope: key.Scope, Name: key.Name}
				if _, ok := observed.Get(seen); ok {
					done.status.Deletes = append(done.status.Deletes, seen)
				}
			}
		}
		return done, err
	})
	if err != nil {
		return nil, err
	}
	return &apiv1.DeleteResponse{Revision: uint64(revision)}, nil
}
