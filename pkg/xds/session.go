package xds

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	meshv1 "github.com/meridian-mesh/meridian/proto/meridian/mesh/v1"
)

// Keys of a node's metadata.
const (
	// MetadataDataplane holds a Dataplane as a string of JSON.
	MetadataDataplane = "dataplane.resource"
	// MetadataVersion holds what the proxy's programs say of themselves.
	MetadataVersion = "version"
)

// mark is the key of the mark of an inline dataplane.
func mark(proxy resource.Key) resource.Key {
	proxy.Kind = resource.KindInlineDataplane
	return proxy
}

// start lets a proxy in, or says why not. A blank one has nothing yet.
func (s *Server) start(st *stream, node *corev3.Node, blank bool) error {
	if n, most := proto.Size(node.GetMetadata()), s.o.Limits.NodeMetadata; n > most {
		return status.Errorf(codes.InvalidArgument, "node.metadata: %d bytes, at most %d (limits.nodeMetadataBytes)", n, most)
	}
	key, err := ParseNodeID(node.GetId())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	var inline *meshv1.Dataplane
	if v, ok := node.GetMetadata().GetFields()[MetadataDataplane]; ok {
		text, ok := v.GetKind().(*structpb.Value_StringValue)
		if !ok {
			return status.Errorf(codes.InvalidArgument, "node.metadata[%q]: must be a string of JSON", MetadataDataplane)
		}
		if inline, err = DecodeInline(s.o.Table, s.o.Zone, key, []byte(text.StringValue)); err != nil {
			return status.Errorf(codes.InvalidArgument, "node.metadata[%q]: %v", MetadataDataplane, err)
		}
	}
	view := s.o.Store.Config().View()
	if err := meshExists(view, key.Scope); err != nil {
		return err
	}
	dp := inline
	if dp == nil {
		if dp, err = registered(view, key); err != nil {
			return err
		}
	}
	hold, err := s.o.Authenticator.AuthenticateProxy(st.ctx, bearer(st.ctx), key, resource.DataplaneTags(dp), dp.GetNetworking().GetIngress() != nil)
	if err != nil {
		return status.Errorf(codes.Unauthenticated, "authentication failed: %v", err)
	}
	if hold != nil {
		st.release = hold(func(reason error) {
			st.end(status.Errorf(codes.Unauthenticated, "authentication failed: %v", reason))
		})
	}

	p := s.acquire(key)
	at := view.Revision()
	p.registering.Lock()
	if inline != nil {
		at, err = s.register(st.ctx, p, inline)
	} else {
		err = s.adopt(p)
	}
	if err == nil {
		st.proxy, st.from = p, at
		s.book(st)
		st.session = Session{ID: uuid.NewString(), Proxy: key, Since: time.Now()}
		st.session.DataplaneVersion, st.session.EnvoyVersion = versions(node)
		p.open(st, blank)
	}
	p.registering.Unlock()
	if err != nil {
		s.release(p)
		return err
	}
	s.want(p, at)
	return nil
}

// bearer is the token that came with a stream.
func bearer(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("authorization"); len(v) > 0 {
		return v[0]
	}
	return ""
}

func meshExists(v store.View, mesh string) error {
	if _, ok := v.Get(resource.Key{Kind: resource.KindMesh, Name: mesh}); !ok {
		return status.Errorf(codes.NotFound, "mesh %q does not exist", mesh)
	}
	return nil
}

// registered finds a dataplane that was registered beforehand.
func registered(v store.View, k resource.Key) (*meshv1.Dataplane, error) {
	if err := meshExists(v, k.Scope); err != nil {
		return nil, err
	}
	o, ok := v.Get(k)
	if !ok || o.Origin != resource.Local {
		return nil, status.Errorf(codes.NotFound, "%s is not registered here, and the proxy brought none", k)
	}
	dp, err := resource.Decode[meshv1.Dataplane](o)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return dp, nil
}

// registerAttempts bounds how often a write is decided anew.
const registerAttempts = 8

// register writes an inline dataplane, unless it stands there as it is. It returns the revision from which it
// is there.
func (s *Server) register(ctx context.Context, p *proxy, dp *meshv1.Dataplane) (resource.Revision, error) {
	spec, err := resource.Encode(dp)
	if err != nil {
		return 0, status.Error(codes.Internal, err.Error())
	}
	log := s.o.Store.Config()
	view := log.View()
	for range registerAttempts {
		if err := meshExists(view, p.key.Scope); err != nil {
			return 0, err
		}
		o, exists := view.Get(p.key)
		if exists && o.Origin != resource.Local {
			return 0, status.Errorf(codes.FailedPrecondition, "%s was not born in this zone", p.key)
		}
		_, marked := view.Get(mark(p.key))
		p.setInline(marked || !exists)
		if exists && bytes.Equal(o.Spec, spec) {
			return o.Revision, nil
		}
		b := store.Batch{
			Puts:   []store.Put{{Key: p.key, Origin: resource.Local, Spec: spec}},
			Guards: []store.Guard{store.Exists(resource.Key{Kind: resource.KindMesh, Name: p.key.Scope}), store.AtRevision(p.key, 0)},
			Author: store.Author{Who: "proxy " + p.key.Scope + "." + p.key.Name},
		}
		if exists {
			b.Guards[1] = store.AtRevision(p.key, o.Revision)
		} else if !marked {
			b.Puts = append(b.Puts, store.Put{Key: mark(p.key), Origin: resource.Local, Spec: []byte{}})
		}
		result, err := log.Apply(ctx, b)
		switch {
		case err == nil:
			return result.Revision, nil
		case !errors.Is(err, store.ErrConflict):
			return 0, status.Error(codes.Unavailable, fmt.Sprintf("registering %s: %v", p.key, err))
		}
		view = log.View()
	}
	return 0, status.Errorf(codes.Aborted, "registering %s: it changes too often", p.key)
}

// adopt makes sure that a registered dataplane is still there.
func (s *Server) adopt(p *proxy) error {
	view := s.o.Store.Config().View()
	if _, err := registered(view, p.key); err != nil {
		return err
	}
	_, marked := view.Get(mark(p.key))
	p.setInline(marked)
	return nil
}

// finish books the end of a stream. It may be called more than once.
func (s *Server) finish(st *stream, p *proxy) {
	if p == nil {
		return
	}
	last, inline := p.close(st)
	if last && inline && s.ctx.Err() == nil {
		at := time.Now()
		if !st.halved.Load() {
			at = at.Add(s.o.Limits.Grace)
		}
		s.reaper.add(p.key, at)
	}
}

// Goodbye is said for a proxy that is about to stop: an inline dataplane is taken out of the log at once, so
// that the others stop sending to it, while its stream goes on until it ends. Authenticating is the caller's.
func (s *Server) Goodbye(ctx context.Context, proxy resource.Key) error {
	p := s.acquire(proxy)
	defer s.release(p)
	p.registering.Lock()
	defer p.registering.Unlock()
	view := s.o.Store.Config().View()
	if _, marked := view.Get(mark(proxy)); !marked {
		return nil
	}
	p.leave(true)
	_, err := s.o.Store.Config().Apply(ctx, store.Batch{
		Deletes: []resource.Key{proxy, mark(proxy)},
		Author:  store.Author{Who: "proxy " + proxy.Scope + "." + proxy.Name},
	})
	if err != nil {
		p.leave(false)
		return fmt.Errorf("taking %s out: %w", proxy, err)
	}
	return nil
}

// remove takes inline dataplanes out of the log whose proxies have not come back.
func (s *Server) remove(ctx context.Context, keys []resource.Key) error {
	var b store.Batch
	for _, k := range keys {
		p := s.acquire(k)
		defer s.release(p)
		// Nobody else holds two of these locks, and nobody waits for one with another lock held.
		p.registering.Lock()
		defer p.registering.Unlock()
		if !p.idle() {
			continue
		}
		if _, marked := s.o.Store.Config().View().Get(mark(k)); marked {
			b.Deletes = append(b.Deletes, k, mark(k))
		}
	}
	if len(b.Deletes) == 0 {
		return nil
	}
	b.Author = store.Author{Who: "xds"}
	_, err := s.o.Store.Config().Apply(ctx, b)
	return err
}

// versions reads what a proxy says of itself.
func versions(node *corev3.Node) (dataplane, envoy VersionInfo) {
	text := func(s *structpb.Struct, name string) string {
		const most = 256 // it is stored
		v := s.GetFields()[name].GetStringValue()
		return strings.ToValidUTF8(v[:min(len(v), most)], "")
	}
	v := node.GetMetadata().GetFields()[MetadataVersion].GetStructValue()
	d, e := v.GetFields()["kumaDp"].GetStructValue(), v.GetFields()["envoy"].GetStructValue()
	dataplane = VersionInfo{
		Version: text(d, "version"), GitTag: text(d, "gitTag"), GitCommit: text(d, "gitCommit"), BuildDate: text(d, "buildDate"),
	}
	envoy = VersionInfo{Version: text(e, "version"), Build: text(e, "build")}
	if b := node.GetUserAgentBuildVersion().GetVersion(); envoy.Version == "" && b != nil {
		envoy.Version = fmt.Sprintf("%d.%d.%d", b.GetMajorNumber(), b.GetMinorNumber(), b.GetPatch())
	}
	return dataplane, envoy
}
