package api

import (
	"context"

	"github.com/meridian-mesh/meridian/pkg/resource"
	"github.com/meridian-mesh/meridian/pkg/store"
	apiv1 "github.com/meridian-mesh/meridian/proto/meridian/api/v1"
)

// Get implements the ResourceService.
func (s *Service) Get(ctx context.Context, req *apiv1.GetRequest) (*apiv1.GetResponse, error) {
	d, key, err := s.item(req.GetPlural(), req.GetScope(), req.GetName())
	if err != nil {
		return nil, err
	}
	if err := s.mayRead(ctx, d); err != nil {
		return nil, err
	}
	withStatus, err := parseStatus(req.GetStatus())
	if err != nil {
		return nil, err
	}
	config, observed, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	o, ok := viewOf(d, config, observed).Get(key)
	if !ok {
		return nil, notFound(titleGet)
	}
	revision := o.Revision
	if o, err = newAvailable(config).complete(o); err != nil {
		return nil, s.storeError(err, titleGet)
	}
	if o, err = s.shown(ctx, d, o); err != nil {
		return nil, s.storeError(err, titleGet)
	}
	b, err := o.JSON(d)
	if err == nil && withStatus {
		var status *apiv1.ResourceStatus
		if status, err = s.observing(config, observed).status(d, o); err == nil {
			b, err = resource.EncodeJSON(d, o, resource.Part{Name: "status", Message: status})
		}
	}
	if err != nil {
		return nil, s.storeError(err, titleGet)
	}
	return &apiv1.GetResponse{Json: b, Revision: uint64(revision)}, nil
}

// List implements the ResourceService.
func (s *Service) List(ctx context.Context, req *apiv1.ListRequest) (*apiv1.ListResponse, error) {
	d, scope, err := s.descriptor(req.GetPlural(), req.GetScope())
	if err != nil {
		return nil, err
	}
	if err := s.mayRead(ctx, d); err != nil {
		return nil, err
	}
	w, err := s.window(ctx, titleList, req.GetSize(), req.GetOffset())
	if err != nil {
		return nil, err
	}
	config, observed, err := s.views(ctx)
	if err != nil {
		return nil, err
	}
	view, within := viewOf(d, config, observed), scoped(d.Kind, scope)
	done, err := s.turn(ctx, titleList)
	if err != nil {
		return nil, err
	}
	defer done()
	services := newAvailable(config)
	p, err := paginate(w, w.rest(view, within), view.Count(within), func(o *resource.Object) ([]byte, int, error) {
		o, err := services.complete(o)
		if err != nil {
			return nil, 0, err
		}
		if o, err = s.shown(ctx, d, o); err != nil {
			return nil, 0, err
		}
		b, err := o.JSON(d)
		return b, len(b), err
	})
	if err != nil {
		return nil, s.storeError(err, titleList)
	}
	return &apiv1.ListResponse{Total: p.total, Items: p.items, Next: p.next}, nil
}

// scoped is the range of a kind in one scope, or in all if there is none.
func scoped(k resource.Kind, scope string) store.Range {
	if scope == "" {
		return store.OfKind(k)
	}
	return store.InScope(k, scope)
}
