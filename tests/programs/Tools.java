import java.io.BufferedReader;
import java.io.File;
import java.io.FileDescriptor;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.FileReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.io.RandomAccessFile;
import java.net.URI;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.text.DecimalFormat;
import java.util.Arrays;
import java.util.Comparator;
import java.util.Date;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.TimeZone;
import java.util.TreeMap;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Does what command-line tools do; its first argument says what. */
public class Tools {
    static int runs;

    public static void main(String[] args) throws Exception {
        runs++;
        String[] rest = args.length == 0 ? args : Arrays.copyOfRange(args, 1, args.length);
        switch (args.length == 0 ? "args" : args[0]) {
            case "args": args(rest); break;
            case "env": env(); break;
            case "files": files(); break;
            case "stdin": stdin(); break;
            case "return": System.out.println("returned"); break;
            case "exit": System.out.print("no newline"); System.exit(Integer.parseInt(rest[0])); break;
            case "halt": System.out.println("halting"); Runtime.getRuntime().halt(9); break;
            case "finally": inFinally(); break;
            case "elsewhere": elsewhere(); break;
            case "throw": deep(3); break;
            case "thrower": thrower(); break;
            case "closed": closed(); break;
            case "child": child(); break;
            case "hooks": hooks(); break;
            case "daemons": daemons(); break;
            case "pool": pool(); break;
            case "locale": locale(); break;
            case "properties": properties(); break;
            case "caller": caller(); break;
            case "handler": handler(); break;
            // What training finds out.
            case "count": System.out.println("run " + runs); break;
            case "once": if (runs == 1) System.err.println("first time"); break;
            case "config": config(); break;
            case "log": log(rest); break;
            case "status": System.exit(runs == 1 ? 0 : 7); break;
            case "stubborn": stubborn(); break;
            case "hang": if (runs > 1) Thread.sleep(1000000); break;
            case "loop": while (runs > 1) { } break;
            case "thread": if (runs > 1) new Thread(Tools::sleep, "left-behind").start(); break;
            case "fork": fork(); break;
            case "descriptors": descriptors(); break;
            case "rmdir": removeDirectory(); break;
            case "work": work(); break;
            default: System.err.println("what is " + args[0] + "?"); System.exit(2);
        }
    }

    static void args(String[] args) {
        System.out.println(args.length);
        for (String arg : args) {
            System.out.println("<" + arg + "> " + arg.length() + " "
                    + arg.codePoints().mapToObj(Integer::toHexString).collect(Collectors.joining(" ")));
        }
    }

    static void env() {
        for (Map.Entry<String, String> entry : new TreeMap<>(System.getenv()).entrySet()) {
            System.out.println(entry.getKey() + "=" + entry.getValue());
        }
        System.out.println(System.getenv("NOT_THERE"));
    }

    static void files() throws IOException {
        System.out.println(System.getProperty("user.dir"));
        System.out.println(new File("in.txt").getAbsolutePath() + " " + new File("in.txt").length());
        System.out.println(Path.of("in.txt").toAbsolutePath() + " " + Paths.get(URI.create("file:///")).relativize(Path.of("sub").toAbsolutePath()));
        System.out.println(new File("sub/../in.txt").getCanonicalPath());
        System.out.println(Arrays.toString(new File(".").list()).length());
        try (BufferedReader reader = new BufferedReader(new FileReader("in.txt"))) {
            System.out.println(reader.readLine());
        }
        System.out.println(Files.readString(Path.of("in.txt")));
        try (FileInputStream in = new FileInputStream("in.txt")) {
            System.out.println(new String(in.readAllBytes(), StandardCharsets.UTF_8));
        }
        try (RandomAccessFile file = new RandomAccessFile("in.txt", "r")) {
            System.out.println(file.readByte());
        }
        Files.createDirectories(Path.of("sub"));
        Files.writeString(Path.of("sub", "nio.txt"), "nio");
        try (FileOutputStream out = new FileOutputStream("sub/io.txt")) {
            out.write("io".getBytes());
        }
        try {
            Files.readString(Path.of("missing.txt"));
        } catch (IOException error) {
            System.out.println(error);
        }
    }

    static void stdin() throws IOException {
        BufferedReader reader = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = reader.readLine()) != null;) {
            System.out.println(line.toUpperCase(Locale.ROOT));
        }
    }

    static void inFinally() {
        try {
            System.exit(3);
        } finally {
            System.out.println("never said");
        }
    }

    static void elsewhere() throws InterruptedException {
        new Thread(() -> System.exit(4)).start();
        Thread.sleep(100000);
    }

    static void deep(int depth) {
        if (depth > 0) {
            deep(depth - 1);
        }
        throw new IllegalStateException("on purpose", new IOException("a cause"));
    }

    static void thrower() throws InterruptedException {
        Thread thread = new Thread(() -> deep(1), "thrower");
        thread.start();
        thread.join();
        System.out.println("main goes on");
    }

    static void closed() throws IOException {
        System.out.println("before");
        System.out.close();
        System.out.println("after");
        System.err.println(System.out.checkError());
        System.err.close();
        System.in.close();
    }

    static void child() throws Exception {
        ProcessBuilder builder = new ProcessBuilder("sh", "-c", "pwd; echo \"$GREETING\"; echo err >&2; cat; exit 5");
        builder.inheritIO();
        System.out.println(builder.start().waitFor());
        Process process = new ProcessBuilder("sh", "-c", "ls -l /proc/self/fd | grep -c pipe").start();
        System.out.println(new String(process.getInputStream().readAllBytes()).trim());
        builder = new ProcessBuilder("env");
        builder.environment().put("ADDED", "1");
        String text = new String(builder.start().getInputStream().readAllBytes());
        System.out.println(text.lines().filter(line -> line.startsWith("ADDED") || line.startsWith("GREETING")).sorted().collect(Collectors.toList()));
    }

    static void hooks() throws IOException {
        Runtime.getRuntime().addShutdownHook(new Thread(() -> System.out.println("hook")));
        File file = new File("temporary.txt");
        Files.writeString(file.toPath(), "x");
        file.deleteOnExit();
        System.out.println(file.exists());
    }

    static void daemons() throws InterruptedException {
        Thread daemon = new Thread(Tools::sleep, "daemon");
        daemon.setDaemon(true);
        daemon.start();
        new Thread(() -> {
            try {
                Thread.sleep(100);
            } catch (InterruptedException error) {
                return;
            }
            System.out.println("the last word");
        }).start();
        System.out.println("main is done");
    }

    static void pool() throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(3);
        System.out.println(pool.submit(() -> 6 * 7).get());
        pool.shutdown();
        System.out.println(Arrays.asList(3, 1, 2).parallelStream().map(n -> n * 2).sorted().collect(Collectors.toList()));
    }

    static void locale() {
        System.out.println(Locale.getDefault() + " " + TimeZone.getDefault().getID());
        System.out.println(Charset.defaultCharset() + " " + System.getProperty("sun.jnu.encoding"));
        System.out.println(System.getProperty("stdout.encoding") + " " + System.getProperty("file.encoding"));
        System.out.println(String.format("%,.2f %tc", 1234.5, new Date(0)));
        System.out.println(new DecimalFormat().format(1234567.891));
        System.out.println("gr\u00fc\u00df \u20ac");
    }

    static void properties() {
        Properties properties = System.getProperties();
        for (String name : new TreeMap<>(properties).keySet().stream().map(Object::toString).collect(Collectors.toList())) {
            System.out.println(name + "=" + properties.getProperty(name));
        }
        properties.setProperty("left.by", "a run before");
    }

    static void caller() {
        Thread thread = Thread.currentThread();
        System.out.println(thread.getName() + " " + thread.getPriority() + " " + thread.isInterrupted());
        System.out.println(thread.getContextClassLoader() == Tools.class.getClassLoader());
        System.out.println(Arrays.toString(new Throwable().getStackTrace()));
        long depth = StackWalker.getInstance().walk(frames -> frames.count());
        System.out.println(depth);
        System.out.println(Thread.getDefaultUncaughtExceptionHandler());
        System.out.println(System.console() == null);
    }

    static void handler() {
        Thread.setDefaultUncaughtExceptionHandler((thread, error) -> System.out.println("handled " + error.getMessage()));
        deep(0);
    }

    static void stubborn() {
        if (runs == 1) {
            return;
        }
        while (true) {
            try {
                System.exit(0);
            } catch (Throwable caught) {
                continue;
            }
        }
    }

    /** Leaves a child behind, and its pid in a file. */
    static void fork() throws IOException {
        Process child = new ProcessBuilder("sleep", "1000")
                .redirectOutput(ProcessBuilder.Redirect.DISCARD)
                .redirectError(ProcessBuilder.Redirect.DISCARD)
                .start();
        String line = child.pid() + "\n";
        Files.writeString(Path.of(System.getenv("FORKED")), line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        System.out.println("forked");
    }

    /** Closes 0, 1 and 2, not only the streams upon them. */
    static void descriptors() throws IOException {
        System.out.println("before");
        System.err.println("before too");
        new FileInputStream(FileDescriptor.in).close();
        new FileOutputStream(FileDescriptor.out).close();
        new FileOutputStream(FileDescriptor.err).close();
        System.out.println("after");
        System.exit(System.out.checkError() ? 6 : 5);
    }

    /** Deletes the working directory, and all that is in it. */
    static void removeDirectory() throws IOException {
        Path directory = Path.of("").toAbsolutePath();
        try (Stream<Path> paths = Files.walk(directory)) {
            for (Path path : paths.sorted(Comparator.reverseOrder()).collect(Collectors.toList())) {
                Files.delete(path);
            }
        }
        System.out.println(Files.exists(directory) + " " + new File("x").getAbsoluteFile().getName());
    }

    static String configuration;

    /** Reads its configuration once. */
    static void config() {
        if (configuration == null) {
            configuration = new File("in.txt").exists() ? "configured" : "not configured";
        }
        System.out.println(configuration);
    }

    static PrintStream journal;

    /** Opens its log once. */
    static void log(String[] args) throws IOException {
        if (journal == null) {
            journal = new PrintStream(new FileOutputStream("run.log", true));
        }
        journal.println(Arrays.toString(args));
    }

    static void sleep() {
        try {
            Thread.sleep(1000000);
        } catch (InterruptedException error) {
            return;
        }
    }

    /** Something that is slow the first time. */
    static void work() {
        long sum = 0;
        Pattern pattern = Pattern.compile("(a|b)*c[0-9]+(x{2,3}|y)");
        for (int i = 0; i < 20000; i++) {
            sum += pattern.matcher("abababc" + i + "xx").matches() ? i : 0;
            sum += String.format("%05d", i).hashCode();
        }
        System.out.println(sum);
    }
}
