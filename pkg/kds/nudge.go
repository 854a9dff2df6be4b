package kds

// Nudge tells every zone its position now, which it would else learn with the next heartbeat where the changes
// before it are none of its business: someone waits until all zones have come there. It does not block.
func (s *Server) Nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.sessions {
		if v.session != nil {
			v.session.pubs[0].wakeUp()
		}
	}
}
