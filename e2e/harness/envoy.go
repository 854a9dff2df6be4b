package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Admin reads what an Envoy says of itself.
type Admin struct{ *Client }

// NewAdmin is a client of an Envoy's admin address, host:port.
func NewAdmin(addr string) Admin { return Admin{NewClient(addr)} }

// Cluster is what of a cluster the scenarios look at.
type Cluster struct {
	Name           string `json:"name"`
	ConnectTimeout string `json:"connect_timeout"`
}

// Timeout is the connect timeout.
func (c Cluster) Timeout() (time.Duration, error) { return time.ParseDuration(c.ConnectTimeout) }

// Clusters are the dynamic clusters, those in use and those that are still warming, by name.
func (a Admin) Clusters(ctx context.Context) (active, warming map[string]Cluster, err error) {
	var dump struct {
		Configs []struct {
			Type    string        `json:"@type"`
			Active  []dumpCluster `json:"dynamic_active_clusters"`
			Warming []dumpCluster `json:"dynamic_warming_clusters"`
		} `json:"configs"`
	}
	if err := a.Get(ctx, "/config_dump", &dump); err != nil {
		return nil, nil, err
	}
	active, warming = map[string]Cluster{}, map[string]Cluster{}
	for _, c := range dump.Configs {
		for _, d := range c.Active {
			active[d.Cluster.Name] = d.Cluster
		}
		for _, d := range c.Warming {
			warming[d.Cluster.Name] = d.Cluster
		}
	}
	return active, warming, nil
}

type dumpCluster struct {
	Cluster Cluster `json:"cluster"`
}

// Endpoints are the addresses of a cluster's hosts that Envoy counts as healthy.
func (a Admin) Endpoints(ctx context.Context, cluster string) ([]string, error) {
	raw, _, err := a.Do(ctx, "GET", "/clusters?format=json", nil)
	if err != nil {
		return nil, err
	}
	var all struct {
		Clusters []struct {
			Name  string `json:"name"`
			Hosts []struct {
				Address struct {
					Socket struct {
						Address string `json:"address"`
						Port    int    `json:"port_value"`
					} `json:"socket_address"`
				} `json:"address"`
			} `json:"host_statuses"`
		} `json:"cluster_statuses"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, fmt.Errorf("clusters: %w", err)
	}
	var hosts []string
	for _, c := range all.Clusters {
		if c.Name != cluster {
			continue
		}
		for _, h := range c.Hosts {
			hosts = append(hosts, fmt.Sprintf("%s:%d", h.Address.Socket.Address, h.Address.Socket.Port))
		}
	}
	return hosts, nil
}
