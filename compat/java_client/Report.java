// How a scenario program in Java runs its scenarios and prints what came of them.

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.Collection;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.*;

final class Report {
  interface Run {
    void run(String name) throws Exception;
  }

  private static final long SCENARIO_SECONDS = 180;

  private Report() {}

  /** Run those that are chosen, or all; one JSON object a line; ends the process. */
  static void runAll(Collection<String> names, List<String> chosen, Run run) throws Exception {
    for (String name : names) {
      if (!chosen.isEmpty() && !chosen.contains(name)) continue;
      long begun = System.nanoTime();
      String detail = "";
      ExecutorService thread = Executors.newSingleThreadExecutor();
      try {
        thread.submit(() -> {
          run.run(name);
          return null;
        }).get(SCENARIO_SECONDS, TimeUnit.SECONDS);
      } catch (ExecutionException error) {
        StringWriter trace = new StringWriter();
        error.getCause().printStackTrace(new PrintWriter(trace));
        detail = trace.toString();
      } catch (TimeoutException late) {
        detail = "not done in " + SCENARIO_SECONDS + " s";
      }
      thread.shutdownNow();
      double seconds = (System.nanoTime() - begun) / 1e9;
      System.out.printf(Locale.ROOT,
          "{\"name\": \"%s\", \"outcome\": \"%s\", \"detail\": %s, \"seconds\": %.3f}%n",
          name, detail.isEmpty() ? "pass" : "fail", quoted(detail), seconds);
      System.out.flush();
    }
    System.exit(0);
  }

  private static String quoted(String text) {
    StringBuilder out = new StringBuilder("\"");
    for (char c : text.toCharArray()) {
      if (c == '"' || c == '\\') out.append('\\').append(c);
      else if (c < ' ') out.append(String.format("\\u%04x", (int) c));
      else out.append(c);
    }
    return out.append('"').toString();
  }
}
