package api

import (
	"context"
	"net/http"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/meridian-mesh/meridian/pkg/auth"
	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
)

// descriptor finds the kind of a path segment. Published documents put zones below a mesh too; for them the
// scope is dropped.
func (s *Service) descriptor(plural, scope string) (*resource.Descriptor, string, error) {
	d, ok := s.Table.ByPlural(plural)
	if !ok || d.Access == resource.Internal {
		return nil, "", status.Errorf(codes.NotFound, "%s: %v", plural, resource.ErrUnknownKind)
	}
	if d.Kind == resource.KindZone {
		scope = ""
	}
	if d.Scope == resource.ScopeGlobal && scope != "" {
		return nil, "", status.Errorf(codes.NotFound, "%s belong to no mesh", plural)
	}
	return d, scope, nil
}

// item is descriptor for a single resource, which must name its mesh if its kind has one.
func (s *Service) item(plural, scope, name string) (*resource.Descriptor, resource.Key, error) {
	d, scope, err := s.descriptor(plural, scope)
	if err != nil {
		return nil, resource.Key{}, err
	}
	if d.Scope == resource.ScopeMesh && scope == "" {
		return nil, resource.Key{}, status.Errorf(codes.NotFound, "%s belong to a mesh", plural)
	}
	return d, resource.Key{Kind: d.Kind, Scope: scope, Name: name}, nil
}

// writable says why a kind can't be written here.
func (s *Service) writable(d *resource.Descriptor) error {
	switch {
	case d.Writable == resource.WritableNowhere:
		return notAllowed("%s resources are written by the control planes themselves; no control plane's API takes them.", d.Kind)
	case s.ReadOnly:
		return notAllowed("The API of this control plane is read-only (apiServer.readOnly); change %s resources where that is not set.", d.Kind)
	case s.Mode == Global && d.Writable == resource.WritableInZone:
		return notAllowed("This is the global control plane: %s resources are written on the zone control plane of the zone that they belong to. Use its API.", d.Kind)
	case s.Mode == Zone && d.Writable == resource.WritableOnGlobal:
		at := ""
		if s.GlobalAddress != "" {
			at = " (" + s.GlobalAddress + ")"
		}
		return notAllowed("This is the zone control plane of %s: %s resources are written on the global control plane%s. Use its API.", s.Zone, d.Kind, at)
	}
	return nil
}

// mayRead says why the caller may not read a kind.
func (s *Service) mayRead(ctx context.Context, d *resource.Descriptor) error {
	if d.Access != resource.Admin {
		return nil
	}
	c, _ := auth.CallerFrom(ctx)
	if err := s.admin(c); err != nil {
		return err
	}
	if !s.readsSecrets(c) {
		return status.Errorf(codes.PermissionDenied, "A zone control plane that has joined a global one shows no %s without a client certificate or a user token.", d.Kind)
	}
	return nil
}

// readsSecrets says whether the caller is shown secrets. A joined zone has those of the global control plane.
func (s *Service) readsSecrets(c auth.Caller) bool {
	return s.Policy.Admin(c) && (s.Mode != Zone || c.Certificate != nil || c.User != nil)
}

// shown is an object as the caller may see it: without the private keys in it for those who may not read secrets.
// Whatever answers with stored objects goes through it; for kinds that hold no key it costs nothing.
func (s *Service) shown(ctx context.Context, d *resource.Descriptor, o *resource.Object) (*resource.Object, error) {
	if !d.Confidential() {
		return o, nil
	}
	if c, _ := auth.CallerFrom(ctx); s.readsSecrets(c) {
		return o, nil
	}
	return resource.Conceal(d, o)
}

// shownMessage is shown for a spec.
func (s *Service) shownMessage(ctx context.Context, d *resource.Descriptor, m proto.Message) proto.Message {
	if !d.Confidential() {
		return m
	}
	if c, _ := auth.CallerFrom(ctx); s.readsSecrets(c) {
		return m
	}
	return resource.ConcealMessage(d, m)
}

// mayWrite says why the caller may not write a kind.
func (s *Service) mayWrite(ctx context.Context, d *resource.Descriptor) error {
	c, _ := auth.CallerFrom(ctx)
	if d.Access == resource.Admin {
		return s.admin(c)
	}
	if !s.Policy.MayWrite(c) {
		return status.Error(codes.PermissionDenied, "Over the network, by another name than localhost, and from a page of another site a change needs a user token, or a client certificate that this control plane trusts (apiServer.auth.clientCertsDir).")
	}
	return nil
}

func (s *Service) admin(c auth.Caller) error {
	if s.Policy.Admin(c) {
		return nil
	}
	return status.Error(codes.PermissionDenied, "This is for administrators only: use a user token with the role admin, or a client certificate that this control plane trusts (apiServer.auth.clientCertsDir), or call from its own machine where that is allowed (apiServer.auth.allowFromLocalhost).")
}

// author names the caller in the audit line.
func author(ctx context.Context) store.Author {
	c, ok := auth.CallerFrom(ctx)
	if !ok {
		return store.Author{Who: "api"}
	}
	return store.Author{Who: c.Subject(), Request: c.Request}
}

// unsupported is the answer to a body of another media type.
func unsupported() error {
	return withHTTP(status.Error(codes.InvalidArgument, "415: Unsupported Media Type"), http.StatusUnsupportedMediaType)
}
