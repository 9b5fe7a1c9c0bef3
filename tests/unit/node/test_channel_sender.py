"""The sender of control datagrams frames them for the UDP port, in order and in one batch."""

from overlay.addresses import Endpoint
from overlay.demultiplexer import Channel, demultiplex, frame
from overlay.node.channel_sender import FramedSender

HERE, THERE = Endpoint("11.0.0.1", 4500), Endpoint("11.0.0.2", 4500)


class Port:
    def __init__(self):
        self.batches, self.whole, self.apart = [], [], []

    def send_batch(self, batch):
        self.batches.append(list(batch))

    def send_whole(self, batch):
        self.whole.append(list(batch))

    def send_apart(self, datagram, to):
        self.apart.append((datagram, to))


def test_each_datagram_gets_the_frame_of_its_channel():
    port = Port()
    sender = FramedSender(port, port.send_apart)
    sender.send([(Channel.LINK, b"link", HERE), (Channel.DHT, b"dht", THERE)])
    sender.send_whole([(Channel.LINK, b"probe", HERE)])
    sender.send_apart((Channel.DHT, b"help", THERE))
    [batch] = port.batches
    assert batch == [(frame(Channel.LINK, b"link"), HERE), (frame(Channel.DHT, b"dht"), THERE)]
    parts = demultiplex(batch)
    assert (parts.link, parts.dht) == ([(b"link", HERE)], [(b"dht", THERE)])
    assert port.whole == [[(frame(Channel.LINK, b"probe"), HERE)]]
    assert port.apart == [(frame(Channel.DHT, b"help"), THERE)]
