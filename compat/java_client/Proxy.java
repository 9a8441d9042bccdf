import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.net.URI;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;

/** A TCP proxy in front of the broker whose connections can be cut. */
final class Proxy implements AutoCloseable {
  final ServerSocket listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
  final Set<Socket> sockets = ConcurrentHashMap.newKeySet();
  final AtomicInteger accepted = new AtomicInteger();

  Proxy(URI broker) throws IOException {
    start(() -> {
      while (true) {
        Socket near = listener.accept();
        Socket far = new Socket(broker.getHost(), broker.getPort());
        accepted.incrementAndGet();
        sockets.addAll(List.of(near, far));
        start(() -> pump(near, far));
        start(() -> pump(far, near));
      }
    });
  }

  static void start(Callable<?> work) {
    Thread thread = new Thread(() -> {
      try {
        work.call();
      } catch (Exception closed) {
        // The end of a connection, or of the proxy.
      }
    });
    thread.setDaemon(true);
    thread.start();
  }

  Object pump(Socket from, Socket to) throws IOException {
    try (from; to) {
      from.getInputStream().transferTo(to.getOutputStream());
    }
    return null;
  }

  void cut() throws IOException {
    for (Socket socket : sockets) socket.close();
    sockets.clear();
  }

  @Override
  public void close() throws IOException {
    listener.close();
    cut();
  }
}
