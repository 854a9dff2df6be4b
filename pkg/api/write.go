package api

import (
	"bytes"
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

// decision is what a write does: a batch of the config log, and what follows in the status log.
type decision struct {
	config store.Batch
	status store.Batch
	// own are the puts that changes name, until config has them too.
	own []store.Put
	// results has one for each change, in their order.
	results []result
}

// result is what becomes of one resource.
type result uint8

const (
	created result = iota + 1
	updated
	unchanged
	deleted
)

// String is the name that the answer of a batch has for it.
func (r result) String() string {
	return [...]string{"", "created", "updated", "unchanged", "deleted"}[r]
}

// change is one resource that is to be put or deleted. It is decided perhaps several times.
type change interface {
	target() resource.Key
	// becomes is the object after the change, nil if it is deleted. old is the one before, nil if there is none.
	becomes(old *resource.Object) *resource.Object
	// decide adds to a decision what the change does, follows from, and has read of other resources. What it has read
	// of its own, decideAll guards.
	decide(ctx context.Context, st state, d *decision) (result, error)
}

// state is what changes are decided on.
type state struct {
	// before is the state that they meet, after the one that they make, as far as they name it.
	before   store.View
	after    *overlay
	observed store.View
}

// decideAll decides changes on the state after all of them, so that their order means nothing. No two have the same
// key. exactly says whether what is there of each must be what was read, when they are committed, or there at all.
// wrong is told what is wrong with each: it may give an error to go on with the next, or return one.
func decideAll(ctx context.Context, config, observed store.View, changes []change, exactly bool, wrong func(i int, err error) error) (decision, error) {
	st := state{before: config, after: over(config, changes), observed: observed}
	var d decision
	for i, c := range changes {
		r, err := c.decide(ctx, st, &d)
		if err != nil {
			if err := wrong(i, err); err != nil {
				return d, err
			}
		}
		d.results = append(d.results, r)
	}
	// What was named wins over what follows from it, and leads in the audit line.
	follow := slices.DeleteFunc(d.config.Puts, func(p store.Put) bool { return st.after.touches(p.Key) })
	d.config.Puts = append(d.own, follow...)
	// What was read of a key that is itself written counts as it will be, not as it must be before.
	d.config.Guards = slices.DeleteFunc(d.config.Guards, func(g store.Guard) bool { return g.None == nil && st.after.touches(g.Key) })
	seen := make(map[store.Guard]bool, len(d.config.Guards))
	d.config.Guards = slices.DeleteFunc(d.config.Guards, func(g store.Guard) bool {
		twice := seen[g]
		seen[g] = true
		return twice
	})
	for _, c := range changes {
		k := c.target()
		old, found := config.Get(k)
		switch {
		case !found:
			d.config.Guards = append(d.config.Guards, store.AtRevision(k, 0))
		case exactly || exact(c):
			d.config.Guards = append(d.config.Guards, store.AtRevision(k, old.Revision))
		default:
			d.config.Guards = append(d.config.Guards, store.Exists(k))
		}
	}
	return d, nil
}

// exact says whether a change is decided by what its resource is, not only by whether it is there.
func exact(c change) bool {
	p, isPut := c.(*put)
	if !isPut || p.concealed != nil {
		return true
	}
	switch c.target().Kind {
	case resource.KindMesh, resource.KindSecret, resource.KindGlobalSecret:
		return true
	}
	return false
}

// alone decides one change.
func alone(ctx context.Context, config, observed store.View, c change) (decision, error) {
	return decideAll(ctx, config, observed, []change{c}, false, func(_ int, err error) error { return err })
}

// conditional decides one change if its conditions hold.
func (s *Service) conditional(ctx context.Context, title string, dry bool, c change, when conditions) (decision, resource.Revision, error) {
	return s.perform(ctx, title, dry, func(config, observed store.View) (decision, error) {
		old, _ := config.Get(c.target())
		if _, isDrop := c.(*drop); isDrop && old == nil {
			return decision{}, notFound(titleDelete)
		}
		var guard store.Batch
		if err := when.check(title, c.target(), old, &guard); err != nil {
			return decision{}, err
		}
		d, err := alone(ctx, config, observed, c)
		d.config.Guards = append(d.config.Guards, guard.Guards...)
		return d, err
	})
}

// perform is write, or, for a dry run, decides and writes nothing.
func (s *Service) perform(ctx context.Context, title string, dry bool, decide func(config, observed store.View) (decision, error)) (decision, resource.Revision, error) {
	if !dry {
		return s.write(ctx, title, decide)
	}
	observed, view := s.Store.Status().View(), s.Store.Config().View()
	d, err := decide(view, observed)
	return d, view.Revision(), err
}

// parseDryRun reads the parameter dryRun.
func parseDryRun(title, given string) (bool, error) {
	switch strings.ToLower(given) {
	case "", "false":
		return false, nil
	case "true":
		return true, nil
	}
	return false, invalid(title, "Invalid request", resource.Violations{{Field: "dryRun", Message: "must be true or false"}})
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
	if len(b.Deletes)+len(b.DeleteScopes)+len(b.Forget) == 0 {
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
	dry, err := parseDryRun(titleUpdate, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	when, err := preconditions(ctx, titleUpdate)
	if err != nil {
		return nil, err
	}
	in, err := decode(d, req.GetBody())
	if err != nil {
		return nil, bodyError(d.Besides(key, in, err))
	}
	if v := agree(d, key, in); len(v) > 0 {
		return nil, invalid(titleProcess, detailsInvalid, v)
	}
	p, err := s.newPut(ctx, d, key, in, dry)
	if err != nil {
		return nil, bodyError(err)
	}
	done, revision, err := s.conditional(ctx, titleUpdate, dry, p, when)
	if err != nil {
		return nil, err
	}
	res := &apiv1.PutResponse{Created: done.results[0] == created, Revision: uint64(revision), Warnings: in.Warnings, DryRun: dry}
	if dry {
		if res.Json, err = resource.EncodeDocument(d, key, s.shownMessage(ctx, d, p.message)); err != nil {
			return nil, s.storeError(err, titleUpdate)
		}
	}
	return res, nil
}

// newPut makes the write of a decoded body. The error is one of its size.
func (s *Service) newPut(ctx context.Context, d *resource.Descriptor, key resource.Key, in resource.Input, dry bool) (*put, error) {
	if dp, ok := in.Spec.(*meshv1.Dataplane); ok && s.Mode == Zone {
		resource.SetZoneTag(dp, s.Zone)
	}
	c, _ := auth.CallerFrom(ctx)
	p := &put{
		limits: s.Limits, descriptor: d, key: key, message: in.Spec, dry: dry,
		authorities: authorities{now: s.Now, readsFiles: s.Policy.Admin(c), dry: dry},
	}
	return p, p.prepare()
}

// decoder chooses by media type. A body without one is taken for JSON.
func (s *Service) decoder(contentType string) (func(*resource.Descriptor, []byte) (resource.Input, error), error) {
	yaml, err := isYAML(contentType)
	if yaml {
		return s.Limits.DecodeYAML, err
	}
	return s.Limits.DecodeJSON, err
}

// isYAML says whether a media type is YAML's, not JSON's. It fails for others.
func isYAML(contentType string) (bool, error) {
	if contentType == "" {
		return false, nil
	}
	t, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return false, unsupported()
	}
	switch t {
	case "application/json":
		return false, nil
	case "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml":
		return true, nil
	}
	return false, unsupported()
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
	if d.Kind == resource.KindSecret {
		v = append(v, resource.ValidateSecretName("name", key.Scope, key.Name)...)
	} else {
		v = append(v, resource.ValidateName("name", key.Name)...)
	}
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
	// concealed is the message as it was given, where it keeps keys that are stored: message, spec and violations
	// are made of it and of what is there. refused is why they could not be made.
	concealed proto.Message
	refused   error
	// keys are made once for a new mesh.
	keys *meshKeys
	// authorities makes the CAs of a mesh.
	authorities authorities
	// dry says that nothing will be stored: no keys are made.
	dry bool
}

// prepare does what needs no view.
func (p *put) prepare() error {
	d := p.descriptor
	if d.Default != nil {
		d.Default(p.key, p.message)
	}
	if d.Confidential() && resource.HasHidden(d, p.message) {
		p.concealed = p.message
		return nil
	}
	return p.complete()
}

// reveal makes of what was given what is to be stored, with the keys of what is there.
func (p *put) reveal(old *resource.Object) error {
	var before proto.Message
	if old != nil {
		var err error
		if before, err = old.Message(p.descriptor); err != nil {
			return err
		}
	}
	p.message = proto.Clone(p.concealed)
	missing := resource.Reveal(p.descriptor, p.message, before)
	if err := p.complete(); err != nil {
		return err
	}
	// What is said of a key that is not there, and of what goes with it, says nothing.
	p.violations = append(missing, slices.DeleteFunc(p.violations, func(v resource.Violation) bool {
		return slices.ContainsFunc(missing, func(m resource.Violation) bool { return strings.HasPrefix(v.Field, grandparent(m.Field)) })
	})...)
	return nil
}

// grandparent is the path of what holds the field that holds a field.
func grandparent(path string) string {
	for range 2 {
		path = path[:max(strings.LastIndexByte(path, '.'), 0)]
	}
	return path + "."
}

// complete validates the message and encodes it.
func (p *put) complete() error {
	if p.descriptor.Validate != nil {
		p.violations = p.descriptor.Validate(p.key, p.message)
	}
	var err error
	if p.spec, err = resource.Encode(p.message); err != nil {
		return err
	}
	return p.limits.CheckSize(p.spec)
}

func (p *put) target() resource.Key { return p.key }

func (p *put) becomes(old *resource.Object) *resource.Object {
	if p.concealed != nil {
		p.refused = p.reveal(old)
	}
	o := &resource.Object{Key: p.key, Spec: p.spec}
	if old != nil {
		o.Origin = old.Origin
	}
	return o
}

func (p *put) decide(ctx context.Context, st state, d *decision) (result, error) {
	if p.refused != nil {
		return 0, bodyError(p.refused)
	}
	old, found := st.before.Get(p.key)
	title, done := titleUpdate, updated
	switch {
	case !found:
		title, done = titleCreate, created
	case bytes.Equal(old.Spec, p.spec):
		done = unchanged
	}
	if len(p.violations) > 0 {
		return done, invalid(title, detailsInvalid, p.violations)
	}
	// What is there has its mesh, unless that goes at the same time.
	if mesh := (resource.Key{Kind: resource.KindMesh, Name: p.key.Scope}); p.key.Scope != "" && (!found || st.after.touches(mesh)) {
		if _, ok := st.after.Get(mesh); !ok {
			return done, fail(codes.InvalidArgument, titleCreate, "Mesh is not found", resource.Violation{Field: "mesh", Message: "mesh of name " + p.key.Scope + " is not found"})
		}
		d.config.Guards = append(d.config.Guards, store.Exists(mesh))
	}
	now := p.becomes(old)
	d.own = append(d.own, store.Put{Key: p.key, Origin: now.Origin, Spec: now.Spec})

	switch p.key.Kind {
	case resource.KindMesh:
		return done, p.mesh(ctx, st, old, d, title)
	case resource.KindSecret, resource.KindGlobalSecret:
		v, err := p.upholds(st, &d.config)
		if err != nil {
			return done, err
		}
		if len(v) > 0 {
			return done, invalid(title, detailsInvalid, v)
		}
		return done, p.secret(st, old, d)
	case resource.KindRevocation:
		if st.after.leads(p.key) {
			return done, forget(st.before, time.Now(), d)
		}
	}
	return done, nil
}

// drop is the deletion of one resource.
type drop struct{ key resource.Key }

func (x *drop) target() resource.Key { return x.key }

func (x *drop) becomes(*resource.Object) *resource.Object { return nil }

func (x *drop) decide(_ context.Context, st state, d *decision) (result, error) {
	old, found := st.before.Get(x.key)
	if !found {
		return deleted, notFound(titleDelete)
	}
	d.config.Deletes = append(d.config.Deletes, x.key)
	switch x.key.Kind {
	case resource.KindMesh:
		return deleted, deleteMesh(st, x.key, d)
	case resource.KindZone:
		return deleted, deleteZone(st, x.key, d)
	case resource.KindSecret:
		return deleted, deleteSecret(st, old, d)
	case resource.KindGlobalSecret:
		return deleted, moved(st.after, x.key, old, nil, d)
	case resource.KindDataplane:
		for _, k := range []resource.Kind{resource.KindDataplaneInsight, resource.KindProxyPosition} {
			seen := resource.Key{Kind: k, Scope: x.key.Scope, Name: x.key.Name}
			if _, ok := st.observed.Get(seen); ok {
				d.status.Deletes = append(d.status.Deletes, seen)
			}
		}
	}
	return deleted, nil
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
	dry, err := parseDryRun(titleDelete, req.GetDryRun())
	if err != nil {
		return nil, err
	}
	when, err := preconditions(ctx, titleDelete)
	if err != nil {
		return nil, err
	}
	_, revision, err := s.conditional(ctx, titleDelete, dry, &drop{key}, when)
	if err != nil {
		return nil, err
	}
	return &apiv1.DeleteResponse{Revision: uint64(revision), DryRun: dry}, nil
}
